"""What an antibody's name means: the antigen and its genes under each vendor's spelling, controls told, nothing lost."""

# ruff: noqa: RUF001 - Greek letters are part of antibodies' names
import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.omics import proteins
from mofm.omics.genome import gene_table
from mofm.omics.proteins import RULES, resolve_proteins

HUMAN, MOUSE = gene_table("human"), gene_table("mouse")
fast = settings(max_examples=60, deadline=None)

# Name and the symbols of its genes; names as panels and papers give them (TotalSeq-A/B/C, BD AbSeq, CITE-seq papers).
HUMAN_NAMES = {
    "CD1a": "CD1A", "CD1c": "CD1C", "CD1d": "CD1D", "CD2": "CD2", "CD3": "CD3D CD3E CD3G", "CD4": "CD4", "CD5": "CD5",
    "CD7": "CD7", "CD8": "CD8A", "CD8a": "CD8A", "CD9": "CD9", "CD10": "MME", "CD11a": "ITGAL", "CD11b": "ITGAM",
    "CD11c": "ITGAX", "CD11a/CD18 (LFA-1)": "ITGAL ITGB2", "CD13": "ANPEP", "CD14": "CD14", "CD15 (SSEA-1)": "FUT4",
    "CD16": "FCGR3A FCGR3B", "CD18": "ITGB2", "CD19": "CD19", "CD20": "MS4A1", "CD21": "CR2", "CD22": "CD22",
    "CD23": "FCER2", "CD24": "CD24", "CD25": "IL2RA", "CD26": "DPP4", "CD26 (Adenosine)": "DPP4", "CD27": "CD27",
    "CD28": "CD28", "CD29": "ITGB1", "CD30": "TNFRSF8", "CD31": "PECAM1", "CD32": "FCGR2A FCGR2B FCGR2C",
    "CD33": "CD33", "CD34": "CD34", "CD35": "CR1", "CD36": "CD36", "CD38": "CD38", "CD39": "ENTPD1", "CD40": "CD40",
    "CD41": "ITGA2B", "CD42b": "GP1BA", "CD43": "SPN", "CD44": "CD44", "CD45": "PTPRC", "CD45RA": "PTPRC",
    "CD45RO": "PTPRC", "CD45RB": "PTPRC", "B220 (CD45R)": "PTPRC", "CD47": "CD47", "CD48": "CD48", "CD49a": "ITGA1",
    "CD49b": "ITGA2", "CD49d": "ITGA4", "CD49f": "ITGA6", "CD50": "ICAM3", "CD52": "CD52", "CD54": "ICAM1",
    "CD55": "CD55", "CD56": "NCAM1", "CD57": "B3GAT1", "CD58": "CD58", "CD61": "ITGB3", "CD62L": "SELL",
    "CD62P (P-Selectin)": "SELP", "CD63": "CD63", "CD64": "FCGR1A", "CD66a/c/e": "CEACAM1 CEACAM6 CEACAM5",
    "CD66b": "CEACAM8", "CD69": "CD69", "CD70": "CD70", "CD71": "TFRC", "CD72": "CD72", "CD73": "NT5E",
    "CD77": "A4GALT", "CD79a": "CD79A", "CD79b (Igβ)": "CD79B", "CD80": "CD80", "CD81": "CD81", "CD82": "CD82",
    "CD83": "CD83", "CD85j (ILT2)": "LILRB1", "CD86": "CD86", "CD88 (C5aR)": "C5AR1", "CD90": "THY1", "CD94": "KLRD1",
    "CD95 (Fas)": "FAS", "CD96 (TACTILE)": "CD96", "CD98": "SLC3A2", "CD99": "CD99", "CD101 (BB27)": "CD101",
    "CD102": "ICAM2", "CD103 (Integrin αE)": "ITGAE", "CD105": "ENG", "CD106": "VCAM1", "CD107a (LAMP-1)": "LAMP1",
    "CD112 (Nectin-2)": "NECTIN2", "CD115 (CSF-1R)": "CSF1R", "CD116": "CSF2RA", "CD117 (c-kit)": "KIT",
    "CD119 (IFN-γ R α chain)": "IFNGR1", "CD122 (IL-2Rβ)": "IL2RB", "CD123": "IL3RA", "CD124": "IL4R",
    "CD126": "IL6R", "CD127 (IL-7Rα)": "IL7R", "IL7Ralpha (CD127)": "IL7R", "CD133": "PROM1", "CD134": "TNFRSF4",
    "CD135": "FLT3", "CD137 (4-1BB)": "TNFRSF9", "CD138": "SDC1", "CD140a": "PDGFRA", "CD141": "THBD",
    "CD142": "F3", "CD144": "CDH5", "CD146": "MCAM", "CD150": "SLAMF1", "CD152": "CTLA4", "CD154": "CD40LG",
    "CD155 (PVR)": "PVR", "CD158 (KIR2DL1/S1/S3/S5)": "KIR2DL1", "CD158b (KIR2DL2/L3, NKAT2)": "KIR2DL3",
    "CD158e1 (KIR3DL1, NKB1)": "KIR3DL1", "CD159a (NKG2A)": "KLRC1", "CD161": "KLRB1", "CD162": "SELPLG",
    "CD163": "CD163", "CD169": "SIGLEC1", "CD172a (SIRPα)": "SIRPA", "CD178 (Fas-L)": "FASLG", "CD179a": "VPREB1",
    "CD183": "CXCR3", "CD184 (CXCR4)": "CXCR4", "CD185 (CXCR5)": "CXCR5", "CD192 (CCR2)": "CCR2", "CD194": "CCR4",
    "CD195": "CCR5", "CD196": "CCR6", "CD197 (CCR7)": "CCR7", "CD201 (EPCR)": "PROCR", "CD204": "MSR1",
    "CD205 (DEC-205)": "LY75", "CD206 (MMR)": "MRC1", "CD207 (Langerin)": "CD207", "CD209 (DC-SIGN)": "CD209",
    "CD218a": "IL18R1", "CD223 (lag3)": "LAG3", "CD224": "GGT1", "CD226 (DNAM-1)": "CD226", "CD235a": "GYPA",
    "CD235a/b": "GYPA GYPB", "CD235ab": "GYPA GYPB", "CD243 (ABCB1)": "ABCB1", "CD244 (2B4)": "CD244",
    "CD252 (OX40L)": "TNFSF4", "CD254 (TRANCE, RANKL)": "TNFSF11", "CD257 (BAFF, BLYS)": "TNFSF13B",
    "CD258 (LIGHT)": "TNFSF14", "CD267 (TACI)": "TNFRSF13B", "CD268 (BAFF-R)": "TNFRSF13C",
    "CD269 (BCMA)": "TNFRSF17", "CD270 (HVEM, TR2)": "TNFRSF14", "CD272 (BTLA)": "BTLA",
    "CD273 (B7-DC, PD-L2)": "PDCD1LG2", "CD274 (B7-H1, PD-L1)": "CD274", "B7-H1 (PD-L1)": "CD274",
    "PD-L1 (CD274)": "CD274", "CD275 (B7-H2, ICOSL)": "ICOSLG", "B7-H4": "VTCN1", "CD278 (ICOS)": "ICOS",
    "CD279 (PD-1)": "PDCD1", "PD1 (CD279)": "PDCD1", "PD-1": "PDCD1", "CD294 (CRTH2)": "PTGDR2", "CD303": "CLEC4C",
    "CD304 (Neuropilin-1)": "NRP1", "CD305 (LAIR1)": "LAIR1", "CD307d (FcRL4)": "FCRL4", "CD314 (NKG2D)": "KLRK1",
    "CD319 (CRACC)": "SLAMF7", "CD324 (E-Cadherin)": "CDH1", "CD326 (Ep-CAM)": "EPCAM", "CD328 (Siglec-7)": "SIGLEC7",
    "CD335 (NKp46)": "NCR1", "CD336 (NKp44)": "NCR2", "CD337 (NKp30)": "NCR3", "CD340 (erbB2/HER-2)": "ERBB2",
    "CD352 (NTB-A)": "SLAMF6", "CD354 (TREM-1)": "TREM1", "CD357 (GITR)": "TNFRSF18", "CD360 (IL-21R)": "IL21R",
    "CD366 (tim3)": "HAVCR2", "CD370 (CLEC9A/DNGR1)": "CLEC9A", "CD371": "CLEC12A", "Siglec-8": "SIGLEC8",
    "HLA-A,B,C": "HLA-A HLA-B HLA-C", "HLA-ABC": "HLA-A HLA-B HLA-C", "HLA.A.B.C": "HLA-A HLA-B HLA-C",
    "HLA-DR": "HLA-DRA HLA-DRB1 HLA-DRB5", "MHCII (HLA-DR)": "HLA-DRA HLA-DRB1 HLA-DRB5", "HLA-E": "HLA-E",
    "HLA-A2": "HLA-A", "TCR α/β": "TRAC TRBC1 TRBC2", "TCRab": "TRAC TRBC1 TRBC2", "TCRb": "TRBC1 TRBC2",
    "TCR γ/δ": "TRDC TRGC1 TRGC2", "TCR-gd": "TRDC TRGC1 TRGC2", "TCRg": "TRGC1 TRGC2", "TCR Vα7.2": "TRAV1-2",
    "TCR Vα24-Jα18 (iNKT cell)": "TRAV10 TRAJ18", "TCR Vδ2": "TRDV2", "TCR Vγ9": "TRGV9", "IgD": "IGHD",
    "IgM": "IGHM", "IgG Fc": "IGHG1 IGHG2 IGHG3 IGHG4", "IgA": "IGHA1 IGHA2", "Ig light chain κ": "IGKC",
    "integrin β7": "ITGB7", "FcεRIα": "FCER1A", "Folate Receptor β (FR-β)": "FOLR2", "Mac-2 (Galectin-3)": "LGALS3",
    "Podoplanin": "PDPN", "Notch 1": "NOTCH1", "Cadherin 11": "CDH11", "TIGIT (VSTM3)": "TIGIT",
    "KLRG1 (MAFA)": "KLRG1", "TSLPR (TSLP-R)": "CRLF2", "VEGFR-3 (FLT-4)": "FLT4", "c-Met": "MET", "LOX-1": "OLR1",
    "C5L2": "C5AR2", "XCR1": "XCR1", "CX3CR1": "CX3CR1", "β2-microglobulin": "B2M", "GARP (LRRC32)": "LRRC32",
    "EGFR": "EGFR", "4.1BBL": "TNFSF9", "MICA/MICB": "MICA MICB", "LAMP1": "LAMP1", "CTLA4": "CTLA4",
}  # fmt: skip

DECORATED = {
    "CD3_TotalSeqB": "CD3", "CD45RA-TotalSeqC": "CD45RA", "CD4 TotalSeq™-A": "CD4", "CD19_TSB": "CD19",
    "anti-human CD19": "CD19", "anti-CD27": "CD27", "Hu.CD4_RPA.T4": "CD4", "HuMs.CD44": "CD44",
    "HuMsRt.CD278": "CD278", "CD4_RPA-T4": "CD4", "CD8a_RPA-T8_TotalSeqC": "CD8a", "CD11b (ICRF44)": "CD11b",
    "CD45-2D1": "CD45", "CD3_UCHT1_AHS0231_pAbO": "CD3", "CD3:UCHT1|CD3E|AHS0231|pAbO": "CD3",
    "CD11b:ICRF44|ITGAM|AHS0184|pAbO": "CD11b", "CD3-CTCATTGTAACTCCT": "CD3", "A0034_CD3": "CD3",
    "C0081_CD14-C0081": "CD14", "adt_CD14": "CD14", "PROT_CD16": "CD16", "CD45_prot": "CD45", "CD56-1": "CD56",
    "CD3-1": "CD3", "CD3-2": "CD3", "CD4.1": "CD4", "TCR_alpha_beta": "TCRab", "TCR-gamma-delta": "TCRgd",
    "CD11a_CD18 (LFA-1)": "CD11a/CD18", "anti-human/mouse integrin β7": "integrin b7",
}  # fmt: skip

CONTROLS = {
    "IgG1": "IgG1 control", "IgG2a": "IgG2a control", "IgG1 control": "IgG1 control", "IsoIgG2A": "IgG2a control",
    "Mouse IgG1, κ isotype Ctrl": "mouse IgG1 control", "Mouse.IgG1.iso": "mouse IgG1 control",
    "Isotype control mIgG2a, k": "mouse IgG2a control", "IgG2b_Mouse_k": "mouse IgG2b control",
    "Rat IgG2b, kappa Isotype Control": "rat IgG2b control", "Rat-IgG1-1": "rat IgG1 control",
    "Armenian Hamster IgG Isotype Ctrl": "hamster IgG control", "Arm.ham.IgG.iso": "hamster IgG control",
    "IgG-Hamster": "hamster IgG control", "mouse_IgG2a_control_TotalSeqB": "mouse IgG2a control",
    "Rat IgG2c, λ Isotype Ctrl": "rat IgG2c control", "rabbit IgG": "rabbit IgG control", "Isotype_MOPC-21": "control",
}  # fmt: skip

MOUSE_NAMES = {
    "CD3": "Cd3d Cd3e Cd3g", "CD4": "Cd4", "CD8b (Ly-3)": "Cd8b1", "CD45R/B220": "Ptprc", "CD16/32": "Fcgr3 Fcgr2b",
    "I-A/I-E": "H2-Aa H2-Ab1 H2-Eb1", "Ly-6G": "Ly6g", "Ly-6C": "Ly6c1 Ly6c2", "NK-1.1": "Klrb1c", "F4/80": "Adgre1",
    "Ly-6A/E (Sca-1)": "Ly6a", "TER-119/Erythroid Cells": "Gypa", "CD45.1": "Ptprc", "CD90.2": "Thy1",
    "TCR γ/δ": "Trdc Trgc1 Trgc2 Trgc4", "CD21/CD35 (CR2/CR1)": "Cr2", "CD317 (BST2, PDCA-1)": "Bst2",
    "Siglec H": "Siglech", "CD170 (Siglec-F)": "Siglecf", "CD24": "Cd24a", "anti-mouse/human CD11b": "Itgam",
}  # fmt: skip


def genes_of(name, table=HUMAN):
    resolution = resolve_proteins([name], table)
    return {table.symbols[table.row_of_id[gene]] for gene in resolution.genes[0]}


def test_there_are_enough_names():
    assert len(HUMAN_NAMES) + len(DECORATED) + len(CONTROLS) > 250


@pytest.mark.parametrize(("name", "genes"), HUMAN_NAMES.items())
def test_names_of_human_panels(name, genes):
    assert genes_of(name) == set(genes.split())


@pytest.mark.parametrize(("name", "genes"), MOUSE_NAMES.items())
def test_names_of_mouse_panels(name, genes):
    assert genes_of(name, MOUSE) == set(genes.split())


@pytest.mark.parametrize(("decorated", "plain"), DECORATED.items())
def test_decorations_change_nothing(decorated, plain):
    first, second = resolve_proteins([decorated, plain], HUMAN).ids
    assert first == second
    assert genes_of(decorated) == genes_of(plain) != set()


@pytest.mark.parametrize(("name", "control"), CONTROLS.items())
def test_isotype_controls_are_known_as_such(name, control):
    resolution = resolve_proteins([name], HUMAN)
    assert (resolution.ids, resolution.genes, resolution.control.tolist()) == ([control], [()], [True])


@pytest.mark.parametrize("name", ["IgM", "IgD", "IgG Fc", "IgG", "IgE", "CD3", "CD79b (Igβ)", "Ig kappa"])
def test_antigens_are_no_controls(name):
    assert not resolve_proteins([name], HUMAN).control[0]


@pytest.mark.parametrize("name", ["Streptavidin", "Hashtag1", "HTO_1", "A_B", "TCR Vγ77", "CD999", ""])
def test_what_cannot_be_read_keeps_its_name(name):
    resolution = resolve_proteins([name], HUMAN)
    assert (resolution.ids, resolution.genes, resolution.unresolved) == ([name], [()], [name])


def test_forms_of_one_protein_stay_apart_and_clones_of_one_antigen_do_not():
    resolution = resolve_proteins(["CD45", "CD45RA", "CD45RO", "CD3-1", "CD3-2", "CD31", "CD32"], HUMAN)
    assert len(set(resolution.ids)) == 6
    assert resolution.ids[3] == resolution.ids[4] == "CD3"
    assert resolution.genes[0] == resolution.genes[1] == resolution.genes[2]
    assert resolution.summary()["merged"] == 1


def test_every_gene_of_the_table_exists_and_every_name_means_one_antigen():
    with proteins._TABLE.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    assert {line["species"] for line in lines} == {"human", "mouse"}
    for table in (HUMAN, MOUSE):
        antigens = {}
        for line in (line for line in lines if line["species"] == table.species):
            assert all(gene in table.row_of_symbol for gene in line["genes"].split()), line
            for name in (line["id"], *line["names"].split("; ")):
                assert antigens.setdefault(proteins._key(name), line["id"]) == line["id"], name
                assert resolve_proteins([name], table).ids == [line["id"]], name


names = st.sampled_from([*HUMAN_NAMES, *DECORATED, *CONTROLS, "Streptavidin", "HTO_1"]) | st.text(max_size=10)


@given(st.lists(names, max_size=15))
@fast
def test_every_name_is_accounted_for_and_by_itself(names):
    resolution = resolve_proteins(names, HUMAN)
    summary = resolution.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["names"] == len(names) == sum(summary[how] for how in dict.fromkeys(RULES.values()))
    assert resolution.ids == [resolve_proteins([name], HUMAN).ids[0] for name in names]
    for genes, how in zip(resolution.genes, resolution.how, strict=True):
        assert bool(genes) == (how not in ("control", "unresolved"))
        assert set(genes) <= set(HUMAN.row_of_id)


@given(st.sampled_from([*HUMAN_NAMES]))
@fast
def test_an_identity_means_itself(name):
    antigen = resolve_proteins([name], HUMAN).ids[0]
    again = resolve_proteins([antigen], HUMAN)
    assert again.ids == [antigen]
    assert genes_of(antigen) == genes_of(name)


@pytest.mark.skipif("MOFM_DATA" not in os.environ, reason="MOFM_DATA is not set: citeseq_pbmc_500.h5mu not looked for")
def test_all_antibodies_of_a_real_panel_are_read():
    path = Path(os.environ["MOFM_DATA"]) / "citeseq_pbmc_500.h5mu"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    import h5py

    with h5py.File(path) as file:
        var = file["mod/adt/var"]
        names = var[var.attrs["_index"]].asstr()[:].tolist()
    resolution = resolve_proteins(names, HUMAN)
    assert resolution.unresolved == []
    assert [name for name, control in zip(names, resolution.control, strict=True) if control] == ["IgG1", "IgG2a"]
    assert resolution.summary()["merged"] == 2  # two clones each against PD-1 and PD-L1
