"""The deep tests need nixpkgs' lib and flake-parts, which no package registry has.

NIXPKGS_LIB: a checkout of nix-community/nixpkgs.lib; FLAKE_PARTS: one of hercules-ci/flake-parts.
"""

import os

collect_ignore = [] if {"NIXPKGS_LIB", "FLAKE_PARTS"} <= os.environ.keys() else ["deep"]
