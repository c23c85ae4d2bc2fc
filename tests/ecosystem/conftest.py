"""Trainers of other packages: make test-ecosystem. Nothing may be fetched."""

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    ACCELERATE_USE_CPU="true",  # the CPU's bits, also where there is a GPU
)
