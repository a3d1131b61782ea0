from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from pyasd.models.moments import Moments, group_by_id

