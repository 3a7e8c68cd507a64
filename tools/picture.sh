#!/usr/bin/env bash
# Draw the README's pictures from two finished runs: tools/picture.sh HEALTHY HARSH
#   docs/sky.svg        the neurons of both, one below the other
#   docs/run-page.png   the top of the harsh run's page, in headless Chromium
# Runs like these, after which `minigpt neurons` counts:
#   python train.py --out runs/healthy
#   python train.py --lr 3e-3 --schedule constant --warmup-steps 0 --out runs/harsh
set -euo pipefail
healthy="$1" harsh="$2" out="${3:-docs}" height="${4:-960}"
browser="$(command -v chromium || command -v chromium-browser || command -v google-chrome)"

python -m minigpt sky "$healthy" "$harsh" --name "healthy" --name "harsh: three times the rate, held constant, no warm-up" --out "$out/sky.svg"
python -m minigpt report "$harsh"
"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="1120,$height" \
    --screenshot="$out/run-page.png" "file://$(realpath "$harsh")/report.html" 2> /dev/null
python - "$out/run-page.png" << 'END'
import sys
from PIL import Image  # a dependency of matplotlib

Image.open(sys.argv[1]).convert("RGB").quantize(64).save(sys.argv[1], optimize=True)
END
