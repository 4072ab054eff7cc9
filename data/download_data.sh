#!/usr/bin/env bash
# Fetch the CrossPoint authors' archives from Google Drive into this folder, unpack them:
#
#   bash data/download_data.sh                    all of them
#   bash data/download_data.sh --only modelnet40  one: shapenet (clouds and renderings),
#                                                 modelnet40, scanobjectnn, shapenetpart
#   bash data/download_data.sh --dry_run          say what would be done
#
# Needs `pip install gdown`. An interrupted download goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")"

only='' dry_run=''
while [ $# -gt 0 ]; do
  case $1 in
    --only) only=${2:?--only needs a name}; shift 2 ;;
    --dry_run) dry_run=1; shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown argument $1; see --help" >&2; exit 2 ;;
  esac
done
case $only in
  '' | shapenet | modelnet40 | scanobjectnn | shapenetpart) ;;
  *) echo "error: --only takes shapenet, modelnet40, scanobjectnn or shapenetpart" >&2
     exit 2 ;;
esac

# NAME  ARCHIVE  FOLDER IT UNPACKS TO  GOOGLE DRIVE ID, as the authors list them
archives="
shapenet shapenet.tar.gz ShapeNet 1F9XIhF1qngLt-GtdnOnXiTsXH84YtrbC
shapenet shapenet_render.tar.gz ShapeNetRendering 1UUY729-4VK_igjKUzLn_ygm3LxwW23pX
scanobjectnn scanobjectnn.tar.gz ScanObjectNN 1r3nJ6gEu6cL59h7cIfMrBeY5p1P_JiIV
modelnet40 modelnet40.tar.gz modelnet40_ply_hdf5_2048 15lmtRaHvVIPLOp_o7rms8e6VQp_en8WF
shapenetpart shapenet_part.tar.gz shapenet_part_seg_hdf5_data 1-Yhqgi7KH6guIej_4X8pciiybQB4pBWQ
"
while read -r name archive folder id; do
  [ -n "$name" ] || continue
  [ -z "$only" ] || [ "$only" = "$name" ] || continue
  if [ -d "$folder" ]; then
    echo "$folder: there already"
    continue
  fi
  echo "$folder: from $archive (Google Drive $id)"
  [ -z "$dry_run" ] || continue
  if ! python3 -m gdown --version >/dev/null 2>&1; then
    echo "error: gdown is missing: pip install gdown" >&2
    exit 1
  fi
  python3 -m gdown --continue -O "$archive" "$id"
  # `data` refuses members that would land outside; a rename makes it whole or nothing.
  rm -rf ".$folder.partial"
  python3 - "$archive" ".$folder.partial" <<'PYTHON'
import sys, tarfile
with tarfile.open(sys.argv[1]) as archive:
    archive.extractall(sys.argv[2], filter="data")
PYTHON
  if [ ! -d ".$folder.partial/$folder" ]; then
    echo "error: $archive does not hold $folder but: $(ls ".$folder.partial")" >&2
    exit 1
  fi
  mv ".$folder.partial/$folder" "$folder"
  rm -rf ".$folder.partial" "$archive"
done <<<"$archives"
