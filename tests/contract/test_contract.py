"""Our code against the recorded hosts, and the check itself against code that does not bind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness.hosts import DEFAULT_VERSION, host_path
from xpu_utils.doctor.comfyui import KNOWN_HOSTS

from .__main__ import RECORDS, ROOT, compared, findings, record, recorded, touches
from .check import Finding, check
from .contract import Contract, Record
from .facts import Facts
from .news import news
from .pack import Pack
from .reading import read
from .touches import Kind

HOSTS = {file.stem: Facts.load(file) for file in RECORDS.glob("*.json")}
MAX_RECORD_BYTES = 320 << 10
NEWER, OLDER = "0.33.0", "0.3.75"
"""With and without the parameters that ComfyUI 0.4 gave to its VAE's up-sampling."""

UPSAMPLE = "comfy.ldm.modules.diffusionmodules.model.Upsample().forward"


@pytest.mark.parametrize("version", HOSTS)
def test_what_we_touch_is_there_and_takes_what_we_give(version: str) -> None:
    failures = [str(finding) for finding in findings(HOSTS[version]) if not finding.guard]
    assert not failures, "\n".join(failures)


def test_a_missing_feature_that_is_asked_for_is_listed_and_no_failure() -> None:
    texts = [str(finding) for finding in findings(HOSTS["0.3.52"])]
    (found,) = (text for text in texts if "no REGISTERED_ATTENTION_FUNCTIONS" in text and "/attention.py" in text)
    assert found.endswith("(feature-detected: asks for REGISTERED_ATTENTION_FUNCTIONS)")


def test_a_record_is_what_the_host_offers_now(tmp_path: Path) -> None:
    record(host_path(DEFAULT_VERSION)).save(tmp_path / "again.json")
    again = (tmp_path / "again.json").read_text(encoding="utf-8")
    kept = (RECORDS / f"{DEFAULT_VERSION}.json").read_text(encoding="utf-8")
    assert again == kept, "run `make contract` with each host"


def test_records_are_small_and_hold_names_only() -> None:
    names = re.compile(r"[\w.]*|(abstract )?(static |class )?\([\w=.,* /]*\)")
    for file in RECORDS.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert len(text) < MAX_RECORD_BYTES
        assert [string for string in re.findall(r'"([^"]*)"', text) if not names.fullmatch(string)] == []


def test_the_doctor_knows_the_hosts_that_are_recorded_whole() -> None:
    assert [facts.version for facts in recorded()] == list(KNOWN_HOSTS)


def test_without_the_mend_of_the_cpu_decode_the_newer_host_is_named(tmp_path: Path) -> None:
    (mended,) = (touch for touch in touches() if touch.kind is Kind.STAND_IN and touch.path == UPSAMPLE)
    lines = (ROOT / mended.file).read_text(encoding="utf-8").splitlines()
    line = lines[mended.line - 1]
    indent = line[: len(line) - len(line.lstrip())]
    lines[mended.line - 1] = f'{indent}patcher.add_object_patch(f"{{name}}.forward", functools.partial(_old, module))'
    lines.append("def _old(module, x, output_shape=None): ...")
    file = tmp_path / mended.file
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines), encoding="utf-8")
    (found,) = (finding for finding in _findings(tmp_path, NEWER) if UPSAMPLE in finding.text)
    assert found.place == mended.place
    assert "takes no conv_carry_out" in found.text
    assert str(found).endswith(f"on ComfyUI {NEWER}")
    assert [finding for finding in _findings(tmp_path, OLDER) if UPSAMPLE in finding.text] == []


BREAKS = {
    "an import": ("from comfy.sd import Nothing", "comfy.sd has no Nothing"),
    "a module": ("import comfy.nothing", "comfy has no nothing"),
    "a name": ("import comfy.sd\ncomfy.sd.nothing", "comfy.sd has no nothing"),
    "a keyword": ("import comfy.sd\ncomfy.sd.load_clip(nothing=1)", "takes no nothing"),
    "a position": ("import comfy.utils\ncomfy.utils.get_attr(1, 2, 3)", "takes 2 positional arguments, 3 are given"),
    "what is needed": ("import comfy.utils\ncomfy.utils.get_attr(1)", "needs attr"),
    "a constructor": ("from comfy.utils import ProgressBar\nProgressBar()", "needs total"),
    "an attribute": ("def f(patcher):\n    patcher.nothing", "has no nothing"),
    "a method": ("def f(patcher):\n    patcher.model_size(1)", "takes 0 positional arguments, 1 are given"),
    "what a patcher holds": ("def f(patcher):\n    patcher.model.nothing", "has no nothing"),
    "an annotated object": ("import comfy.sd\ndef f(x: comfy.sd.VAE):\n    x.nothing", "has no nothing"),
    "a node": ('import nodes\nnodes.NODE_CLASS_MAPPINGS["Nothing"]', "has no [Nothing]"),
    "a flag": ("from comfy.cli_args import args\nargs.nothing", "has no nothing"),
    "a function's place": (
        "import comfy.utils\ndef f(obj): ...\ncomfy.utils.get_attr = f",
        "comfy.utils.get_attr(obj, attr), but ours takes no attr",
    ),
    "a wrapped function's place": (
        "import comfy.utils, functools\nstock = comfy.utils.get_attr\n@functools.wraps(stock)\ndef f(obj): ...",
        "but ours takes no attr",
    ),
    "a method's place": (
        "import comfy.sd\nclass Ours(comfy.sd.CLIP):\n    def clone(self, *, strict): ...",
        "needs strict, which the host does not give",
    ),
    "a call of what is overridden": (
        "import comfy.sd\nclass Ours(comfy.sd.CLIP):\n    def clone(self, *a, **k):\n        super().clone(nothing=1)",
        "takes no nothing",
    ),
    "keywords": (
        "import comfy.utils\ncomfy.utils.get_attr = lambda o, a: None",
        "takes obj by position only, as o",
    ),
    "what is read of a call": (
        "import comfy.sd\nfrom ..calls import Call\n_NAMES = ('tokens', 'nothing')\nclass Ours(comfy.sd.CLIP):\n"
        "    def encode_from_tokens(self, *a, **k):\n        return Call(_NAMES, a, k).get('nothing')",
        "but ours reads return_pooled as nothing",
    ),
    "what a wrapper reads": (
        "from comfy.patcher_extension import WrappersMP\nfrom ..calls import Call\n"
        "def ours(executor, *a, **k):\n    Call(('x', 'nothing'), a, k)\n"
        'def f(patcher):\n    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "k", ours)',
        "APPLY_MODEL: ours reads t as nothing",
    ),
    "a wrapper": (
        "from comfy.patcher_extension import WrappersMP\ndef ours(executor, x): ...\n"
        'def f(patcher):\n    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "k", ours)',
        "APPLY_MODEL: ours takes 1 positional arguments",
    ),
    "a callback": (
        "from comfy.patcher_extension import CallbacksMP\ndef f(patcher):\n"
        '    patcher.add_callback_with_key(CallbacksMP.ON_DETACH, "k", lambda patcher: None)',
        "ON_DETACH: ours takes 1 positional arguments",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_does_not_bind_is_found(what: str, tmp_path: Path) -> None:
    code, text = BREAKS[what]
    found = _findings(_pack(tmp_path, code), NEWER)
    assert any(text in finding.text for finding in found), found
    assert all(re.fullmatch(r"xpu_utils/host/ours\.py:\d+", finding.place) for finding in found)
    assert not any(finding.guard for finding in found)


GUARDS = {
    "hasattr": 'import comfy.ops\nif hasattr(comfy.ops, "nothing"):\n    comfy.ops.nothing()',
    "getattr": 'import comfy.ops\ndef f():\n    getattr(comfy.ops, "nothing", None)',
    "a table's entry": (
        "import nodes\ndef f():\n    known = nodes.NODE_CLASS_MAPPINGS\n"
        '    if "Nothing" in known:\n        known["Nothing"]()'
    ),
    "try": "try:\n    from comfy.ops import nothing\nexcept ImportError:\n    nothing = None",
    "a question of ours": (
        'def knows(model):\n    return hasattr(model, "nothing")\n'
        "def f(model):\n    return model.clone(nothing=1) if knows(model) else model.clone()"
    ),
    "an override": (
        "import comfy.sd\nclass Ours(comfy.sd.CLIP):\n    def nothing(self):\n        return super().nothing()"
    ),
    "its parameters": (
        "import comfy.sd, inspect\ndef f():\n"
        '    if "nothing" in inspect.signature(comfy.sd.load_clip).parameters:\n'
        "        comfy.sd.load_clip([], nothing=1)"
    ),
}


@pytest.mark.parametrize("how", GUARDS)
def test_what_is_asked_for_first_is_no_failure(how: str, tmp_path: Path) -> None:
    found = _findings(_pack(tmp_path, GUARDS[how]), NEWER)
    assert found
    assert all(finding.guard for finding in found), found


def test_a_module_that_no_record_tells_of_asks_for_new_records(tmp_path: Path) -> None:
    (finding,) = _findings(_pack(tmp_path, "import comfy_extras.nodes_mask"), NEWER)[:1]
    assert "no record of comfy_extras, run `make contract` with each host" in finding.text


def test_what_a_partial_checkout_does_not_hold_is_unknown_and_not_missing(tmp_path: Path) -> None:
    host = tmp_path / "host"
    (host / "comfy").mkdir(parents=True)
    (host / "comfyui_version.py").write_text('__version__ = "9.9.9"\n', encoding="utf-8")
    (host / "comfy" / "utils.py").write_text("def get_attr(obj): ...\n", encoding="utf-8")
    facts = record(host)
    assert facts.partial
    assert {"comfy.sd", "server"} <= set(facts.unseen)
    code = "import comfy.sd, comfy.utils\ncomfy.sd.nothing()\ncomfy.utils.get_attr(1, 2)"
    pack = read(Pack(_pack(tmp_path / "pack", code)), facts.roots)
    (finding,) = check(pack, Contract(Record(facts)), facts.wrapped, facts.version)
    assert "takes 1 positional arguments, 2 are given" in finding.text


def test_the_news_of_a_host_are_what_has_changed_of_what_we_touch() -> None:
    text = news(HOSTS[OLDER], HOSTS[NEWER], touches())
    assert f"- `{UPSAMPLE}`: `(x)` → `(x, conv_carry_in=..., conv_carry_out=...)`" in text.splitlines()
    assert "comfy.utils.get_attr`" not in text
    assert news(HOSTS[NEWER], HOSTS[NEWER], touches()).endswith("- no difference")


def test_news_are_told_beside_the_next_older_record_and_the_oldest_has_none() -> None:
    by_age = recorded()
    assert compared(by_age[1]).startswith(f"### What we touch, ComfyUI {by_age[1].version} beside {by_age[0].version}")
    assert compared(by_age[0]).endswith("nothing can be compared with it.")


def _pack(folder: Path, code: str) -> Path:
    """A pack of one file."""
    file = folder / "xpu_utils" / "host" / "ours.py"
    file.parent.mkdir(parents=True)
    file.write_text(code + "\n", encoding="utf-8")
    return folder


def _findings(folder: Path, version: str) -> list[Finding]:
    facts = HOSTS[version]
    return check(read(Pack(folder), facts.roots), Contract(Record(facts)), facts.wrapped, facts.version)
