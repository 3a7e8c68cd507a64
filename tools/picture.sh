#!/usr/bin/env bash
# Photograph the top of a run's page with headless Chromium: tools/picture.sh RUN OUT.png (docs/run-page.png is one).
set -euo pipefail
run="$1" out="$2" height="${3:-1175}"
browser="$(command -v chromium || command -v chromium-browser || command -v google-chrome)"

"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="1000,$height" \
    --screenshot="$out" "file://$(realpath "$run")/report.html" 2> /dev/null
python - "$out" << 'END'
import sys
from PIL import Image  # a dependency of matplotlib

Image.open(sys.argv[1]).convert("RGB").quantize(64).save(sys.argv[1], optimize=True)
END
