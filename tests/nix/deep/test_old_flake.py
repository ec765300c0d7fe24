"""Every option that the old flake's modules declared is met with advice, in NixOS and in Home Manager."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from ..evaluate import evaluate

OPTIONS = json.loads(Path(__file__).with_name("old_options.json").read_text(encoding="utf-8"))
OF_ITS_FILES = """
let
  lib = import ./tests/nix/lib.nix;
  none = { _module.args = { pkgs = { }; config = { }; }; _module.check = false; };
  options = file: lib.collect lib.isOption (lib.evalModules { modules = [ file none ]; }).options;
  declared = file: lib.filter (name: !lib.hasPrefix "_module." name)
    (map (option: lib.concatStringsSep "." option.loc) (options file));
  folder = builtins.getEnv "OLD_FLAKE" + "/modules/nixos";
in
lib.concatMap (name: declared (folder + "/${name}")) (lib.attrNames (builtins.readDir folder))
"""


def told(kind: str) -> dict[str, list[str]]:
    """What the module says where one option of the old flake is set, by option."""
    answer: dict[str, list[str]] = evaluate(f"""
      let
        lib = import ./tests/nix/lib.nix;
        made = path: value: import ./tests/nix/deep/{kind}.nix {{
          settings = lib.setAttrByPath (lib.splitString "." path) value;
        }};
        said = path: value: let answer = made path value; in answer.failures ++ answer.warnings or [ ];
      in
      lib.mapAttrs said (lib.importJSON ./tests/nix/deep/old_options.json).{kind}
    """)
    return answer


@pytest.mark.parametrize("kind", ["nixos", "home"])
def test_no_option_is_met_with_silence_or_with_an_unknown_name(kind: str) -> None:
    answers = told(kind)
    assert answers.keys() == OPTIONS[kind].keys()
    unadvised = [
        name
        for name, said in answers.items()
        if not any(f"`{name}'" in text and re.search("Instead: |renamed to|changed to", text) for text in said)
    ]
    assert unadvised == []


if "OLD_FLAKE" in os.environ:

    def test_the_list_is_what_its_modules_declare() -> None:
        assert sorted(evaluate(OF_ITS_FILES)) == sorted(OPTIONS["nixos"])
