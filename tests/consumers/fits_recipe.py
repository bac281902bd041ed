"""The recipe of README.md for FITS, over a stand-in for astropy's table: masked columns of numpy in FITS' order of bytes.

    python fits_recipe.py README

Prints the columns of the Parquet that the recipe writes, as JSON.
"""

import json
import os
import pathlib
import re
import sys
import tempfile
import types

import numpy as np
import pyarrow.parquet as pq

blocks = re.findall(r"```python\n(.*?)```", pathlib.Path(sys.argv[1]).read_text(), re.DOTALL)
(recipe,) = [block for block in blocks if "Table.read" in block]


def masked(name, values, of_type, missing):
    column = np.ma.masked_array(np.array(values, of_type), mask=missing)
    column.name = name
    return column


class Table:
    @staticmethod
    def read(path):
        return Table()

    def convert_bytestring_to_unicode(self):
        self.is_text = True

    def itercols(self):
        assert self.is_text
        yield masked("id", ["a", "", "c"], "U8", [False, True, False])
        yield masked("flux", [[1, 2], [np.nan, 4], [5, 6]], ">f4", [[False, False], [True, False], [False, False]])
        yield masked("bits", [[0, 1], [0, 0], [1, 0]], ">i4", False)
        yield masked("logg", [4, -9999, 5], ">i4", [False, True, False])
        yield masked("covariance", np.arange(12).reshape(3, 2, 2), ">f8", False)


astropy = types.ModuleType("astropy.table")
astropy.Table = Table
sys.modules["astropy"], sys.modules["astropy.table"] = types.ModuleType("astropy"), astropy
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    exec(recipe, {})
    written = pq.read_table("spectra.parquet").to_pydict()
    os.chdir("/")
print(json.dumps(written, allow_nan=False))
