#!/usr/bin/env bash
# Downloads COCO 2017 (train, val, annotations) and unpacks it. Started again after any interruption it goes on.
# Usage: bash scripts/download_dataset.sh DIR
#
# Needs curl, unzip and md5sum (md5 on macOS), and about 45 GB below DIR: 20 GB of archives, which may be deleted
# afterwards, and as much of files. In the environment:
#   COCO_MIRROR       where the archives lie, in zips/ and annotations/; http://images.cocodataset.org by default
#   COCO_ARCHIVES     what to fetch, a line each: path below the mirror, MD5, size in MB
#   COCO_ATTEMPTS     connections per archive that fail or break off before giving up; 20 by default
#   COCO_RETRY_DELAY  seconds before the second of them, then twice as long each time, at most a minute; 5 by default
set -euo pipefail
export LC_ALL=C

mirror=${COCO_MIRROR:-http://images.cocodataset.org}
attempts=${COCO_ATTEMPTS:-20}
first_delay=${COCO_RETRY_DELAY:-5}
archives=${COCO_ARCHIVES:-"
zips/val2017.zip                           442b8da7639aecaf257c1dceb8ba8c80 816
annotations/annotations_trainval2017.zip   f4bbac642086de4f52a3fdda2de5fa2c 253
zips/train2017.zip                         cced6f7f71b7629ddf16f17bbcfab6b2 19337
"}

main() {
  if (($# != 1)) || [[ $1 == -* ]]; then
    echo "usage: bash $0 DIR" >&2
    exit 2
  fi
  local tool
  for tool in curl unzip "$(md5_tool)"; do
    command -v "$tool" >/dev/null || fail "$tool is needed and not installed"
  done
  mkdir -p "$1"
  cd "$1"
  check_free_space
  local path md5 megabytes
  while read -r path md5 megabytes; do
    [[ -z $path ]] && continue
    local name=${path##*/}
    if [[ -e .$name.unpacked ]]; then
      echo "$name: unpacked before"
      continue
    fi
    download "$mirror/$path" "$name" "$md5" "$megabytes"
    unpack "$name"
    touch ".$name.unpacked"
  done <<<"$archives"
  echo "COCO 2017 is in $PWD. The .zip files there may be deleted."
}

# An archive takes its size and, unpacked, once more as much; what is there of these already counts, nothing else.
check_free_space() {
  local path md5 megabytes name missing needed=0 free
  while read -r path md5 megabytes; do
    name=${path##*/}
    [[ -z $path || -e .$name.unpacked ]] && continue
    missing=$((megabytes * 22 / 10 - $(megabytes_in "$name" "$name.part" "$(unpacks_to "$path")")))
    needed=$((needed + (missing > 0 ? missing : 0)))
  done <<<"$archives"
  # The field before the percentage, whatever the name of the file system; in kB, and so is du's.
  free=$(df -Pk . | awk 'NR == 2 { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) { print $(i - 1); exit } }')
  free=$((free * 1024 / 1000000))
  if ((free < needed)); then
    fail "$PWD has $free MB free, $needed MB are needed. Free some, or give a directory on another disk"
  fi
}

# unpacks_to PATH: the directory in COCO's archives, val2017 in zips/val2017.zip, annotations in annotations/*.zip.
unpacks_to() {
  local name=${1##*/}
  if [[ $1 == zips/* ]]; then echo "${name%.zip}"; else echo "${1%%/*}"; fi
}

# megabytes_in PATH...: on the disk, in those that are there.
megabytes_in() {
  local path kilobytes there=()
  for path; do [[ -e $path ]] && there+=("$path"); done
  ((${#there[@]} == 0)) && { echo 0; return; }
  kilobytes=$(du -sk -- "${there[@]}" | awk '{ sum += $1 } END { printf "%.0f", sum }')
  echo $((kilobytes * 1024 / 1000000))
}

# download URL FILE MD5 MEGABYTES: the file under its name is whole; what has arrived of it is FILE.part.
download() {
  local url=$1 file=$2 md5=$3 most=$(($4 * 102 / 100 + 1)) delay=$first_delay attempt status code wrong=0
  if [[ -e $file ]]; then
    has_md5 "$file" "$md5" && { echo "$file: downloaded before"; return; }
    echo "$file: not the archive it should be, fetching it anew" >&2
    rm -f -- "$file"
  fi
  for ((attempt = 1; attempt <= attempts; attempt++)); do
    echo "$file: downloading$([[ -s $file.part ]] && echo ", $(($(wc -c <"$file.part"))) bytes are there")"
    status=0
    # No --retry: it would begin anew instead of going on. A minute at less than 1 kB/s counts as broken off.
    # ulimit (in kB; the write fails, if the signal is ignored) stops a server that sends on and on without a length.
    code=$(trap '' XFSZ; ulimit -f $((most * 1000)) 2>/dev/null || true
      curl --fail --location --proto-redir =http,https --max-redirs 5 --max-filesize "${most}000000" \
        --continue-at - --output "$file.part" --progress-bar --write-out '%{http_code}' \
        --connect-timeout 30 --speed-limit 1000 --speed-time 60 "$url") || status=$?
    if ((status == 0)) || [[ $code == 416 ]]; then # 416: there is nothing after what we have
      if has_md5 "$file.part" "$md5"; then
        mv -- "$file.part" "$file"
        return
      fi
      rm -f -- "$file.part"
      ((++wrong < 2)) || fail "$url: twice not the file it should be (MD5 $md5). Try another mirror: COCO_MIRROR=URL"
      echo "$file: what came is not the file it should be (MD5 $md5), once more from the start" >&2
      continue
    fi
    case $status in
      1 | 47) fail "$url: redirects to what is neither http nor https, or too often. Set COCO_MIRROR=URL" ;;
    esac
    if ((status == 63)) || { [[ -e $file.part ]] && (($(wc -c <"$file.part") >= most * 1000000)); }; then
      rm -f -- "$file.part"
      fail "$url: more than the $most MB that it may have. Set COCO_MIRROR=URL"
    fi
    if ((status == 33)); then # this server cannot send a part
      rm -f -- "$file.part"
      continue
    fi
    case $code in
      408 | 429) ;;
      4??) fail "$url: the server answers $code. Try another mirror: COCO_MIRROR=URL" ;;
    esac
    ((attempt == attempts)) && break
    echo "$file: broke off (curl $status, HTTP $code), attempt $attempt of $attempts; again in $delay s" >&2
    sleep "$delay"
    delay=$((delay * 2 > 60 ? 60 : delay * 2))
  done
  fail "$url: $attempts attempts failed. What came is kept; start this again to go on, or set COCO_MIRROR=URL"
}

# unpack FILE: leaves alone what is there, except files of another size, which an interruption leaves behind.
unpack() {
  local file=$1 absent
  if [[ -n $(unzip -Z1 "$file" | grep -E '(^/|(^|/)\.\.(/|$))' || true) ]]; then
    fail "$file has entries that would leave $PWD; nothing was unpacked"
  fi
  # "size name" of the archive's files, less those on the disk; ls, since only GNU's find prints sizes.
  absent=$(comm -23 <(unzip -Z -l "$file" | awk '
      /^[-?]/ { size = $4; for (i = 0; i < 9; i++) sub(/^[^ ]+ +/, ""); print size, $0 }' | sort) \
    <(find . -type f -exec ls -ln {} + | awk '
      { size = $5; for (i = 0; i < 8; i++) sub(/^[^ ]+ +/, ""); print size, substr($0, 3) }' | sort) | cut -d ' ' -f 2-)
  echo "$file: unpacking $(grep -c . <<<"$absent" || true) files"
  tr '\n' '\0' <<<"$absent" | xargs -0 rm -f --
  unzip -nq "$file" || fail "$file could not be unpacked to $PWD; start this again to go on"
}

has_md5() { [[ -e $1 && "$("$(md5_tool)" <"$1") " == "$2 "* ]]; }

# macOS has md5, which prints the sum alone; the others md5sum.
md5_tool() { if command -v md5sum >/dev/null || ! command -v md5 >/dev/null; then echo md5sum; else echo md5; fi; }

fail() {
  echo "error: $*" >&2
  exit 1
}

main "$@"
