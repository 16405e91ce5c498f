"""Freezes networks of timm, torchvision and segmentation_models_pytorch, one by one, and records what came out.

    python tests/sweep_freeze.py data/results/freeze.csv [part of a name]   goes on where the file ends
    python tests/sweep_freeze.py table data/results/freeze.csv              the table of docs/freezing.md

Each network learns groups where it can (`embed(groups=4)`), is frozen, called with the example, with another batch and
another size, saved, loaded and called again; outputs are compared with the trained network's. A network runs in a
process of its own, so that a crash is a row too.
"""

import copy
import csv
import multiprocessing
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from flgc_lib.frozen import freeze, load, save
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import embed

FIELDS = (
    *("library", "family", "name", "learned", "way", "convolutions", "norms", "sums", "relus", "left_alone"),
    *("example", "batch", "size", "file", "seconds", "why"),
)
TOLERANCE = 1e-3
TOLERANCE_64 = 1e-9
SECONDS = 60
"""Of the processor, after which a network is given up."""
BYTES = 12 * 2**30
"""More memory than this a network does not get."""

TIMM = """
beit_base_patch16_224 beitv2_base_patch16_224 botnet26t_256 halonet26t sebotnet33ts_256 lambda_resnet26t gernet_s
repvgg_a0 mobileone_s0 cait_xxs24_224 coat_tiny coat_lite_tiny convit_tiny convmixer_768_32 convnext_atto
convnextv2_atto convnext_nano crossvit_tiny_240 cspresnet50 cspdarknet53 darknet53 cs3darknet_s davit_tiny
deit_tiny_patch16_224 deit3_small_patch16_224 densenet121 dla34 dla46_c dla60_res2net dpn48b dpn68 edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnetv2_rw_t tf_efficientnet_b0 tf_efficientnetv2_b0
efficientnet_lite0 mnasnet_050 mobilenetv2_035 fbnetc_100 spnasnet_100 tinynet_e mixnet_s tf_mixnet_s mobilenetv1_100
mobilenet_edgetpu_v2_xs efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 vit_small_patch16_rope_224 fasternet_t0
fastvit_t8 fastvit_sa12 focalnet_tiny_srf gcvit_xxtiny ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a
hgnet_tiny hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small hrnet_w18_small_v2 inception_next_atto
inception_resnet_v2 inception_v3 inception_v4 lcnet_035 levit_128s levit_conv_128s mambaout_femto coatnet_pico_rw_224
coatnet_nano_rw_224 maxvit_pico_rw_256 maxvit_rmlp_pico_rw_256 maxxvit_rmlp_nano_rw_256 coatnext_nano_rw_224
poolformer_s12 poolformerv2_s12 convformer_s18 caformer_s18 mixer_s32_224 gmixer_12_224 resmlp_12_224 gmlp_ti16_224
mobilenetv3_small_050 mobilenetv3_rw tf_mobilenetv3_small_minimal_100 mobilenetv4_conv_small mobilenetv4_hybrid_medium
mobilevit_xxs mobilevitv2_050 mvitv2_tiny nasnetalarge nest_tiny jx_nest_tiny nextvit_small dm_nfnet_f0 nfnet_l0
eca_nfnet_l0 nf_resnet26 nf_regnet_b0 pit_ti_224 pit_ti_distilled_224 pnasnet5large pvt_v2_b0 rdnet_tiny regnetx_002
regnety_002 regnetz_b16 regnetv_040 repghostnet_050 repvit_m0_9 res2net50_14w_8s res2next50 resnest14d
resnest50d_1s4x24d resnet18 resnet18d resnet26t resnet10t resnext26ts gcresnet33ts seresnext26ts eca_resnet33ts
ecaresnet26t resnetblur50 resnetrs50 wide_resnet50_2 resnetaa34d resnetv2_18 resnetv2_50 resnetv2_50x1_bit rexnet_100
rexnetr_100 selecsls42 selecsls60b legacy_seresnet18 senet154 seresnet18 sequencer2d_s shvit_s1 skresnet18
skresnext50_32x4d starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256
tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11 vgg11_bn repvgg_b0
visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_small_resnet26d_224 vit_relpos_small_patch16_224
vit_srelpos_small_patch16_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim vovnet39a
xception41 xception41p legacy_xception xcit_nano_12_p16_224 test_vit test_resnet test_efficientnet test_convnext
test_byobnet test_nfnet
"""
SMP = "Unet UnetPlusPlus Linknet FPN PSPNet PAN DeepLabV3 DeepLabV3Plus MAnet UPerNet"

Network = tuple[nn.Module, tuple[Any, ...]]
Maker = Callable[[str, str], Network]


def networks() -> Iterator[tuple[str, str, str]]:
    """(library, family, name) of what is swept."""
    import timm
    import torchvision

    for encoder in ("resnet18", "mobilenet_v2"):
        for architecture in SMP.split():
            yield "smp", architecture, f"{architecture}-{encoder}"
    for kind in ("segmentation", "detection"):
        for name in torchvision.models.list_models(module=getattr(torchvision.models, kind)):
            yield "torchvision", kind, name
    covered = set()
    chosen = TIMM.split()
    for name in [*chosen, *(n for n in timm.list_models() if n not in chosen)]:
        family = timm.models._registry._model_to_module[name]
        if name in chosen or family not in covered:
            covered.add(family)
            yield "timm", family, name
    for name in torchvision.models.list_models(module=torchvision.models):
        yield "torchvision", "classification", name


def make(library: str, family: str, name: str) -> Network:
    """A network with random weights, and an example that is as small as it takes."""
    import segmentation_models_pytorch as smp

    if library == "timm":
        return _timm(name)
    if library == "torchvision":
        return _torchvision(family, name)
    encoder = name.partition("-")[2]
    size = 128 if family == "PAN" else 64
    return getattr(smp, family)(encoder, encoder_weights=None), (torch.randn(1, 3, size, size),)


def _timm(name: str) -> Network:
    import timm

    for options in ({"img_size": 64}, {}):  # only some can be made for smaller images
        try:
            model = timm.create_model(name, num_classes=10, **options).eval()
        except Exception:
            continue
        own = tuple(model.default_cfg["input_size"][1:])
        for size in ((64, 64), tuple(max(64, s // 2 // 32 * 32) for s in own), own):
            try:
                with torch.no_grad():
                    model(torch.randn(1, 3, *size))
            except Exception:  # some want their own size without saying so
                continue
            return model, (torch.randn(1, 3, *size),)
    raise ValueError("takes no image")


def _torchvision(kind: str, name: str) -> Network:
    import torchvision

    options: dict[str, Any] = {"weights": None}
    size = 64
    if kind == "detection":
        options |= {"weights_backbone": None, "num_classes": 2 if "keypoint" in name else 5}
        options |= {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
        example: Any = [torch.rand(3, 96, 96), torch.rand(3, 80, 112)]
        return torchvision.models.get_model(name, **options), (example,)
    if kind == "segmentation":
        options["weights_backbone"] = None
    else:
        options["num_classes"] = 10
    if name.startswith("vit"):
        size = 56 if name.endswith("14") else 64
        options["image_size"] = size
    elif name.startswith(("inception", "googlenet")):
        size = 96
        options["init_weights"] = False
    elif name == "maxvit_t":
        size = 224
    return torchvision.models.get_model(name, **options), (torch.randn(1, 3, size, size),)


@torch.no_grad()
def sweep_one(library: str, family: str, name: str) -> dict[str, Any]:
    """What freezing one network gives."""
    torch.manual_seed(0)
    model, example = make(library, family, name)
    learned = 0
    try:
        model = embed(model, 4)
        learned = sum(isinstance(m, FLGConv2d) for m in model.modules())
    except ValueError:  # no convolution that could learn its groups
        pass
    model.eval()
    row: dict[str, Any] = {"learned": learned}
    start = time.process_time()
    try:
        frozen = freeze(model, example, tune=False)
    except ValueError as error:
        return row | {"way": "refused", "why": str(error)[:200]}
    facts = frozen.facts
    assert facts is not None
    whole = frozen.signature is not None
    way = "whole" if whole and not facts.left_alone else "partly" if whole else "convolutions"
    row |= {"way": way, "seconds": round(time.process_time() - start, 1), "left_alone": len(facts.left_alone)}
    row |= {name: getattr(facts, name) for name in ("convolutions", "norms", "sums", "relus")}
    row["why"] = "; ".join(facts.left_alone)[:100] if whole else facts.way[:200]
    row["example"] = compare(frozen, model, example)
    if row["example"].startswith("WRONG") and same_in_float64(model, example):
        row["example"] = f"rounding: {row['example'].removeprefix('WRONG ')}, same in float64"
    x = example[0]
    if isinstance(x, Tensor):
        row["batch"] = compare(frozen, model, (torch.cat([x] * 3)[:3].flip(2),))
        row["size"] = compare(frozen, model, (F.interpolate(x, size=(x.shape[2] + 64, x.shape[3] + 32)),))
    try:
        with tempfile.TemporaryDirectory() as folder:
            save(frozen, Path(folder) / "frozen")
            row["file"] = compare(load(Path(folder) / "frozen"), frozen, example)
    except ValueError as error:
        row["file"] = "refused" if whole else "not saved"
        row["why"] = row["why"] or str(error)[:200]
    return row


def compare(frozen: Callable[..., Any], model: Callable[..., Any], inputs: tuple[Any, ...]) -> str:
    """Whether two networks return the same for inputs: "same", or in which way not."""
    try:
        torch.manual_seed(0)
        expected = pytree.tree_leaves(model(*inputs))
    except Exception:  # the network itself does not take it
        return "not taken"
    try:
        torch.manual_seed(0)
        found = pytree.tree_leaves(frozen(*inputs))
    except ValueError as error:
        return f"refused: {error}"[:100]
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}"[:100]
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, Tensor) and (a.shape != b.shape or _off(a, b) > TOLERANCE):
            return f"WRONG {_off(a, b) if a.shape == b.shape else 'shape'}"
    return "same"


def same_in_float64(model: nn.Module, example: tuple[Any, ...]) -> bool:
    """Whether only float32's rounding, which this network makes grow, tells the frozen network from the trained."""
    model = copy.deepcopy(model).double()
    wide = pytree.tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, example)
    frozen = freeze(model, wide, tune=False)
    torch.manual_seed(0)
    expected = pytree.tree_leaves(model(*wide))
    torch.manual_seed(0)
    found = pytree.tree_leaves(frozen(*wide))
    return all(a.shape == b.shape and _off(a, b) < TOLERANCE_64 for a, b in zip(found, expected, strict=True))


def _off(a: Tensor, b: Tensor) -> float:
    scale = b.double().abs().max().item() if b.numel() else 0.0
    return (a.double() - b.double()).abs().max().item() / (scale or 1.0) if b.numel() else 0.0


def sweep(path: Path, part: str = "") -> None:
    """Adds a row for each network that the file lacks."""
    done = {(row["library"], row["name"]) for row in read(path)} if path.exists() else set()
    for library, family, name in networks():
        if (library, name) in done or part not in f"{library} {name}":
            continue
        row = {"library": library, "family": family, "name": name} | _in_a_child(library, family, name)
        print(*(f"{key}={value}" for key, value in row.items() if value != ""), flush=True)
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({key: " ".join(str(value).split()) for key, value in row.items()})


def _in_a_child(*network: str) -> dict[str, Any]:
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_answer, args=(send, *network))
    child.start()
    send.close()
    try:
        row = receive.recv()
    except EOFError:  # it ended without a word
        child.join()
        row = {"way": "too slow" if child.exitcode == -signal.SIGXCPU else f"CRASH exit code {child.exitcode}"}
    child.join()
    return row


def _answer(send: Any, *network: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    try:
        row = sweep_one(*network)
    except BaseException as error:  # a row is wanted whatever happens
        large = isinstance(error, MemoryError) or "allocate memory" in str(error)
        row = {"way": "too large" if large else "CRASH", "why": f"{type(error).__name__}: {error}"[:200]}
    send.send(row)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a sweep."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> str:
    """What the sweep says by family, in Markdown."""
    lines = ["| library | family | networks | whole | partly | convolutions only | refused | wrong or crashed |"]
    lines.append("| --- | --- " + "| ---: " * 6 + "|")
    total: list[int] = [0] * 6
    for library, family in sorted({(row["library"], row["family"]) for row in rows}):
        own = [row for row in rows if (row["library"], row["family"]) == (library, family)]
        ways = [sum(row["way"] == way for row in own) for way in ("whole", "partly", "convolutions")]
        refused = sum(row["way"] in ("refused", "too slow", "too large") for row in own)
        counts = [len(own), *ways, refused, sum(is_wrong(row) for row in own)]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        lines.append(f"| {library} | {family} | {' | '.join(map(str, counts))} |")
    lines.append(f"| all | | {' | '.join(map(str, total))} |")
    return "\n".join(lines)


def is_wrong(row: dict[str, str]) -> bool:
    """Whether a network's outputs changed, or it crashed, after freezing had succeeded."""
    return any(row.get(key, "").startswith(("WRONG", "CRASH")) for key in ("way", "example", "batch", "size", "file"))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if sys.argv[1] == "table":
        print(table(read(Path(sys.argv[2]))))
    else:
        freeze(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))  # what is compiled and imported once
        sweep(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
