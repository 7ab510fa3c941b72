"""`python -m shm_metrics`."""

import sys

from shm_metrics.cli import main

sys.exit(main())
