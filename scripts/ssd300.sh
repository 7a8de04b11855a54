# What the scripts beside this file share: they source it. PYTHON chooses the interpreter; by default REPO/.venv's, or
# python3.

# run_ssd300 REPO DATA DEVICE [flags of main.py]; DEVICE is 0 for MLU, 1 for GPU.
run_ssd300() {
  local repo=$1 data=$2 device
  case $3 in
    0) device=MLU ;;
    1) device=GPU ;;
    *) echo "error: DEVICE must be 0 (MLU) or 1 (GPU), got '$3'" >&2; return 2 ;;
  esac
  shift 3
  if [[ ! -f $repo/main.py ]]; then
    echo "error: REPO must be the directory of main.py, got '$repo'" >&2
    return 2
  fi
  local python=${PYTHON:-}
  if [[ -z $python ]]; then
    python=python3
    [[ -x $repo/.venv/bin/python ]] && python=$repo/.venv/bin/python
  fi
  "$python" "$repo/main.py" --data "$data" --device "$device" "$@"
}

# usage COUNT TEXT ARGUMENTS...: stops with the text where fewer than COUNT arguments are given.
usage() {
  local count=$1 text=$2
  shift 2
  if (($# < count)); then
    echo "usage: bash $0 $text" >&2
    exit 2
  fi
}

# ssd300 "RECIPE FLAGS" REPO DATA DEVICE [flags]: the user's flags come last, and win.
ssd300() {
  local recipe=$1
  shift
  usage 3 "REPO DATA DEVICE(0 MLU, 1 GPU) [flags of main.py]" "$@"
  # shellcheck disable=SC2086 # the recipe is a list of words
  run_ssd300 "$1" "$2" "$3" --backbone resnet50 $recipe "${@:4}"
}

# ssd300_eval "RECIPE FLAGS" REPO DATA CHECKPOINT DEVICE [flags]; the network is read off the checkpoint.
ssd300_eval() {
  local recipe=$1
  shift
  usage 4 "REPO DATA CHECKPOINT DEVICE(0 MLU, 1 GPU) [flags of main.py]" "$@"
  # shellcheck disable=SC2086
  run_ssd300 "$1" "$2" "$4" --mode evaluation --checkpoint "$3" $recipe "${@:5}"
}
