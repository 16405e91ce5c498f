"""Freezes networks of timm, torchvision and segmentation_models_pytorch, one after the other, and records what came out.

    python tests/sweep_freeze.py data/results/freeze-sweep.csv [part of a name]

Each network learns groups where it can (`embed(groups=4)`), is frozen, called with the example, with another batch and
another size, saved, loaded and called again; outputs are compared with the trained network's. A network runs in a
process of its own, so that a crash is a row too. Started again, the sweep skips what the file has.
"""

import csv
import os
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

FIELDS = "library family name learned way convolutions norms sums relus left_alone example batch size file seconds why".split()
TOLERANCE = 1e-3
SECONDS = 900
"""After which a network is given up."""

TIMM = """
beit_base_patch16_224 beitv2_base_patch16_224 botnet26t_256 halonet26t sebotnet33ts_256 lambda_resnet26t gernet_s repvgg_a0
mobileone_s0 cait_xxs24_224 coat_tiny coat_lite_tiny convit_tiny convmixer_768_32 convnext_atto convnextv2_atto
convnext_nano crossvit_tiny_240 cspresnet50 cspdarknet53 darknet53 cs3darknet_s davit_tiny deit_tiny_patch16_224
deit3_small_patch16_224 densenet121 dla34 dla46_c dla60_res2net dpn48b dpn68 edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientnet_b0 efficientnetv2_rw_t tf_efficientnet_b0 tf_efficientnetv2_b0 efficientnet_lite0
mnasnet_050 mobilenetv2_035 fbnetc_100 spnasnet_100 tinynet_e mixnet_s tf_mixnet_s mobilenetv1_100 mobilenet_edgetpu_v2_xs
efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 vit_small_patch16_rope_224 fasternet_t0 fastvit_t8 fastvit_sa12
focalnet_tiny_srf gcvit_xxtiny ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224
sam2_hiera_tiny hrnet_w18_small hrnet_w18_small_v2 inception_next_atto inception_resnet_v2 inception_v3 inception_v4
lcnet_035 levit_128s levit_conv_128s mambaout_femto coatnet_pico_rw_224 coatnet_nano_rw_224 maxvit_pico_rw_256
maxvit_rmlp_pico_rw_256 maxxvit_rmlp_nano_rw_256 coatnext_nano_rw_224 poolformer_s12 poolformerv2_s12 convformer_s18
caformer_s18 mixer_s32_224 gmixer_12_224 resmlp_12_224 gmlp_ti16_224 mobilenetv3_small_050 mobilenetv3_rw
tf_mobilenetv3_small_minimal_100 mobilenetv4_conv_small mobilenetv4_hybrid_medium mobilevit_xxs mobilevitv2_050 mvitv2_tiny
nasnetalarge nest_tiny jx_nest_tiny nextvit_small dm_nfnet_f0 nfnet_l0 eca_nfnet_l0 nf_resnet26 nf_regnet_b0 pit_ti_224
pit_ti_distilled_224 pnasnet5large pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002 regnetz_b16 regnetv_040 repghostnet_050
repvit_m0_9 res2net50_14w_8s res2next50 resnest14d resnest50d_1s4x24d resnet18 resnet18d resnet26t resnet10t
resnext26ts gcresnet33ts seresnext26ts eca_resnet33ts ecaresnet26t resnetblur50 resnetrs50 wide_resnet50_2 resnetaa34d
resnetv2_18 resnetv2_50 resnetv2_50x1_bit rexnet_100 rexnetr_100 selecsls42 selecsls60b legacy_seresnet18 senet154 seresnet18
sequencer2d_s shvit_s1 skresnet18 skresnext50_32x4d starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_cr_tiny_224 swinv2_tiny_window8_256 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_pcpvt_small
twins_svt_small vgg11 vgg11_bn repvgg_b0 visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_small_resnet26d_224
vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224
ese_vovnet19b_slim vovnet39a xception41 xception41p legacy_xception xcit_nano_12_p16_224 test_vit test_resnet
test_efficientnet test_convnext test_byobnet test_nfnet
""".split()
SMP = [
    (architecture, encoder)
    for encoder in ("resnet18", "mobilenet_v2")
    for architecture in "Unet UnetPlusPlus Linknet FPN PSPNet PAN DeepLabV3 DeepLabV3Plus MAnet UPerNet".split()
] + [("Segformer", "mit_b0"), ("Unet", "mit_b0")]

Network = tuple[nn.Module, tuple[Any, ...]]


def networks() -> Iterator[tuple[str, str, str, Callable[[], Network]]]:
    """(library, family, name, how to make it and an example)."""
    import timm
    import torchvision

    for architecture, encoder in SMP:
        name = f"{architecture}-{encoder}"
        yield "smp", architecture, name, lambda a=architecture, e=encoder: _smp(a, e)  # type: ignore[misc]
    for kind in ("segmentation", "detection", ""):
        home = getattr(torchvision.models, kind) if kind else torchvision.models
        for name in torchvision.models.list_models(module=home):
            yield "torchvision", kind or "classification", name, lambda n=name, k=kind: _torchvision(n, k)  # type: ignore[misc]
    for name in TIMM:
        if timm.is_model(name):
            family = timm.models._registry._model_to_module.get(name, "")
            yield "timm", family, name, lambda n=name: _timm(n)  # type: ignore[misc]


def _timm(name: str) -> Network:
    import timm

    model = timm.create_model(name, num_classes=10)
    size = model.default_cfg["input_size"][1:]
    if not model.default_cfg.get("fixed_input_size"):
        size = tuple(max(64, s // 4 // 32 * 32) for s in size)
        try:
            with torch.no_grad():
                model.eval()(torch.randn(1, 3, *size))
        except Exception:  # some want their own size without saying so
            size = model.default_cfg["input_size"][1:]
    return model, (torch.randn(2, 3, *size),)


def _torchvision(name: str, kind: str) -> Network:
    import torchvision

    if kind == "detection":
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5)
        return model, ([torch.rand(3, 96, 96), torch.rand(3, 80, 112)],)
    if kind == "segmentation":
        return torchvision.models.get_model(name, weights=None, weights_backbone=None), (torch.randn(2, 3, 64, 64),)
    size = {"inception_v3": 96, "swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256}.get(name, 64)
    if name.startswith(("vit", "maxvit", "swin_t", "swin_s", "swin_b")):
        size = 518 if "h_14" in name else 224
    return torchvision.models.get_model(name, weights=None, num_classes=10), (torch.randn(2, 3, size, size),)


def _smp(architecture: str, encoder: str) -> Network:
    import segmentation_models_pytorch as smp

    return getattr(smp, architecture)(encoder, encoder_weights=None), (torch.randn(2, 3, 64, 64),)


@torch.no_grad()
def sweep_one(make: Callable[[], Network]) -> dict[str, Any]:
    """What freezing one network gives."""
    torch.manual_seed(0)
    model, example = make()
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
        return row | {"way": "refused", "why": str(error)[:300]}
    facts = frozen.facts
    assert facts is not None
    whole = frozen.signature is not None
    way = "whole" if whole and not facts.left_alone else "partly" if whole else "convolutions"
    row |= {"way": way, "seconds": round(time.process_time() - start, 1), "left_alone": len(facts.left_alone)}
    row |= {name: getattr(facts, name) for name in ("convolutions", "norms", "sums", "relus")}
    row["why"] = "" if whole else facts.way[:300]
    row["example"] = _compare(frozen, model, example)
    x = example[0]
    if isinstance(x, Tensor):
        row["batch"] = _compare(frozen, model, (torch.cat([x, x])[:3].flip(0),))
        row["size"] = _compare(frozen, model, (F.interpolate(x, size=(x.shape[2] + 64, x.shape[3] + 32)),))
    try:
        with tempfile.TemporaryDirectory() as folder:
            save(frozen, Path(folder) / "frozen")
            row["file"] = _compare(load(Path(folder) / "frozen"), frozen, example)
    except ValueError as error:
        row["file"] = "refused" if whole else ""
        row["why"] = row["why"] or str(error)[:300]
    return row


def _compare(frozen: Callable[..., Any], model: Callable[..., Any], inputs: tuple[Any, ...]) -> str:
    try:
        torch.manual_seed(0)
        expected = pytree.tree_leaves(model(*inputs))
    except Exception:  # the network itself does not take it
        return "not taken"
    try:
        torch.manual_seed(0)
        found = pytree.tree_leaves(frozen(*inputs))
    except ValueError as error:
        return f"refused: {error}"[:160]
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}"[:160]
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, Tensor) and (a.shape != b.shape or _off(a, b) > TOLERANCE):
            return f"WRONG {_off(a, b) if a.shape == b.shape else 'shape'}"
    return "same"


def _off(a: Tensor, b: Tensor) -> float:
    scale = b.double().abs().max().item() if b.numel() else 0.0
    return (a.double() - b.double()).abs().max().item() / (scale or 1.0) if b.numel() else 0.0


def sweep(path: Path, part: str = "") -> None:
    """Adds a row for each network that the file lacks."""
    done = {(row["library"], row["name"]) for row in csv.DictReader(path.open(encoding="utf-8"))} if path.exists() else set()
    freeze(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))  # what is compiled and imported once
    for library, family, name, make in networks():
        if (library, name) in done or part not in f"{library} {name}":
            continue
        row = {"library": library, "family": family, "name": name} | _in_a_child(make)
        print(*(f"{key}={value}" for key, value in row.items() if value != ""), flush=True)
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, restval="")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({key: " ".join(str(value).split()) for key, value in row.items()})


def _in_a_child(make: Callable[[], Network]) -> dict[str, Any]:
    import pickle
    import signal

    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        try:
            row = sweep_one(make)
        except BaseException as error:  # a row is wanted whatever happens
            row = {"way": "CRASH", "why": f"{type(error).__name__}: {error}"[:300]}
        with os.fdopen(send, "wb") as pipe:
            pickle.dump(row, pipe)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if data:
        return pickle.loads(data)  # from the child just forked
    number = os.waitstatus_to_exitcode(status)
    return {"way": "no answer in time" if number == -signal.SIGALRM else f"CRASH signal {-number}"}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    sweep(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
