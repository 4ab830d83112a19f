"""`python -m xception` is `xception`."""

import sys

from xception.cli.main import main

sys.exit(main())
