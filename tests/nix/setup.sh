# What our packages use of nixpkgs' setup.sh, with Debian's programs.
set -eu
export HOME=$TMPDIR
runHook() { :; }
makeBinaryWrapper() {
  local program=$1 wrapper=$2 body="" flags=""
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      --add-flag) flags+=" '$2'"; shift 2 ;;
      --add-flags) flags+=" $2"; shift 2 ;;
      --unset) body+="unset $2"$'\n'; shift 2 ;;
      --set) body+="export $2='$3'"$'\n'; shift 3 ;;
      --set-default) body+="export $2=\"\${$2-$3}\""$'\n'; shift 3 ;;
      --prefix) body+="export $2='$4'\"\${$2:+$3\$$2}\""$'\n'; shift 4 ;;
      --suffix) body+="export $2=\"\${$2:+\$$2$3}\"'$4'"$'\n'; shift 4 ;;
      *) echo "makeBinaryWrapper: $1 is not known here" >&2; exit 1 ;;
    esac
  done
  mkdir -p "$(dirname "$wrapper")"
  printf '#!%s\n%sexec %s%s "$@"\n' "$BASH" "$body" "$program" "$flags" > "$wrapper"
  chmod +x "$wrapper"
}
if [ -n "${src-}" ]; then cp -r "$src" source; chmod -R u+w source; cd source; fi
eval "${buildCommand-}"
eval "${installPhase-}"
eval "${postInstall-}"
# Nix 2.8 kills a builder whose log is closed before it ends: this holds it open.
sleep 0.3 &
