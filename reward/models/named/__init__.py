"""Rewards by name, such as `pickscore`, `ocr:frames=4` and `videoalign:TA`; `registry` says how they register."""
