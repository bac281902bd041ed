"""Real SpeX near-infrared spectra of M, L and T dwarfs with their measured noise and three real labels.

Source: the SpeX Prism library inside the Python package `splat` 1.14 (MIT): one FITS file a spectrum and two tables. This script
reads the wheel as a zip archive, brings every spectrum with its noise onto one wavelength grid, joins the labels, cuts what cannot
be trusted, and writes `train.parquet` and `test.parquet`. The same wheel gives the same bytes. README.md says what the columns are.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python make.py                  # downloads the wheel (82 MB) from PyPI
    venv/bin/python make.py --wheel splat-1.14-py3-none-any.whl
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).resolve().parent
WHEEL = "splat==1.14"
WHEEL_SHA256 = "398a1ab79c4d25466032c3aad777cc6d1d171dc7ebf17da609296e4dc4ee9d4b"

# The grid: bin centres [vacuum micron] at equal steps of ln(wavelength). SpeX prism pixels are 0.0031 micron wide at 0.85, 0.0043 at
# 1.25 and 0.0028 at 2.4, at most 0.0039 of their wavelength: with a step of 0.004 no bin is narrower than a native pixel, so that a
# bin averages measured pixels and never invents one. Two bins make a resolution element (R = 75 to 200).
GRID_START, GRID_STEP, GRID_SIZE = 0.85, 0.004, 260
CENTRES = GRID_START * np.exp(GRID_STEP * np.arange(GRID_SIZE))
EDGES = GRID_START * np.exp(GRID_STEP * (np.arange(GRID_SIZE + 1) - 0.5))
# The J-band flux peak, free of telluric bands: flux and noise are divided by the median flux here.
NORMALISATION_WINDOW = (1.26, 1.32)
# A bin is masked where good native pixels cover less than this part of its width.
LEAST_COVER = 0.5

LABELS = [("spt", "subtype"), ("j_h", "mag"), ("h_ks", "mag")]
BANDS = ["J_2MASS", "H_2MASS", "KS_2MASS"]
# 2MASS in-band zero points [W cm^-2 micron^-1], Cohen, Wheaton and Megeath 2003, AJ 126, 1090.
ZERO_POINTS = [3.129e-13, 1.133e-13, 4.283e-14]
# Photometric quality A or B of 2MASS: signal-to-noise 7 or better.
MOST_MAGNITUDE_ERROR = 0.155
# 2MASS never quotes less than this; smaller errors belong to the filters of another survey.
LEAST_MAGNITUDE_ERROR = 0.01
# How well a SpeX prism spectrum reproduces a colour, besides the magnitudes' errors [mag].
FLUX_CALIBRATION = 0.05
# The tables round a type to a whole subtype, a uniform error; splat writes ":" for more than 1 and "::" for more than 2 subtypes.
TYPE_ERROR = {"": math.sqrt(1.0 / 12.0), ":": 1.0, "::": 2.0}
# Two typings of one object differ by about one subtype; where they differ by more than this, one of them is wrong.
MOST_TYPE_DIFFERENCE = 3.0
TEST_FRACTION = 0.2


def table(wheel, path):
    """Rows of a table as dictionaries; the tables have carriage returns as line ends and a byte order mark."""
    text = wheel.read(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    return list(csv.DictReader(io.StringIO(text)))


def primary_image(data):
    """The first image of a gzipped FITS file, as float64. Several headers hold cards that strict readers refuse; four keywords do."""
    data = gzip.decompress(data)
    header, offset, ended = {}, 0, False
    while not ended:
        for start in range(offset, offset + 2880, 80):
            card = data[start : start + 80]
            key = card[:8].decode("latin-1").strip()
            if key == "END":
                ended = True
                break
            if card[8:10] == b"= ":
                header[key] = card[10:].decode("latin-1").split("/")[0].strip()
        offset += 2880
    shape = [int(header[f"NAXIS{axis}"]) for axis in range(int(header["NAXIS"]), 0, -1)]
    kind = {-32: ">f4", -64: ">f8"}[int(header["BITPIX"])]
    if "BSCALE" in header or "BZERO" in header:
        raise ValueError("a scaled image")
    image = np.frombuffer(data, kind, count=math.prod(shape), offset=offset).reshape(shape).astype(float)
    return image[0] if image.ndim == 3 else image


def native_spectrum(data):
    """Wavelength [micron], flux, noise of one file; None where the file has no noise."""
    image = primary_image(data)
    if image.shape[0] > image.shape[1]:
        image = image.T
    return (image[0], image[1], image[2]) if image.shape[0] >= 3 else None


def rebin(wavelength, flux, noise):
    """Flux density averaged over each bin of the grid, weighted by the overlap of native pixel and bin, and its standard error.

    With weights w_j of the good pixels, sum w = 1: flux = sum w_j f_j, sigma^2 = sum w_j^2 noise_j^2. Neighbouring bins that share a
    native pixel are correlated; that is not kept. sigma = 0 marks a masked bin.
    """
    inner = (wavelength[1:] + wavelength[:-1]) / 2.0
    pixel_edges = np.concatenate([[2.0 * wavelength[0] - inner[0]], inner, [2.0 * wavelength[-1] - inner[-1]]])
    overlap = np.minimum(pixel_edges[None, 1:], EDGES[1:, None]) - np.maximum(pixel_edges[None, :-1], EDGES[:-1, None])
    good = np.isfinite(flux) & np.isfinite(noise) & (noise > 0.0)
    bins, pixels = np.nonzero((overlap > 0.0) & good[None, :])
    width = overlap[bins, pixels]

    def total(values):
        return np.bincount(bins, weights=values, minlength=GRID_SIZE)

    covered = total(width)
    seen = covered > 0.0
    safe = np.where(seen, covered, 1.0)
    mean = total(width * flux[pixels]) / safe
    sigma = np.sqrt(total((width * noise[pixels]) ** 2)) / safe
    unmasked = seen & (covered >= LEAST_COVER * np.diff(EDGES))
    return np.where(unmasked, mean, 0.0), np.where(unmasked, sigma, 0.0)


def filter_response(wheel, band):
    """Relative spectral response of a 2MASS band: wavelength [micron], response to energy."""
    name = {"J_2MASS": "j", "H_2MASS": "h", "KS_2MASS": "ks"}[band]
    text = gzip.decompress(wheel.read(f"splat/resources/Filters/{name}_2mass.txt.gz")).decode("latin-1")
    rows = [[float(word) for word in line.split()[:2]] for line in text.splitlines() if re.match(r"^\s*\d", line)]
    return np.array(rows).T


def synthetic_magnitudes(wavelength, flux, responses):
    """Magnitudes of a spectrum in the bands, up to one constant (not all spectra are in absolute units)."""
    flux = np.where(np.isfinite(flux), flux, 0.0)
    magnitudes = []
    for (grid, response), zero_point in zip(responses, ZERO_POINTS):
        weight = np.interp(wavelength, grid, response, left=0.0, right=0.0)
        mean = np.trapezoid(flux * weight, wavelength) / np.trapezoid(weight, wavelength)
        magnitudes.append(-2.5 * math.log10(mean / zero_point) if mean > 0.0 else math.nan)
    return magnitudes


def spex_type(text):
    """(number, error) of a type such as "L5.0:", K0 = 0, M0 = 10, L0 = 20, T0 = 30; None for anything else."""
    match = re.fullmatch(r"([MLT])(\d\.\d)(:{0,2})", text.strip())
    if match is None:
        return None
    return 10.0 * "KMLT".index(match[1]) + float(match[2]), TYPE_ERROR[match[3]]


def published_type(text):
    """The number of a type in the literature's many spellings, or NaN."""
    match = re.search(r"([KMLT])\s*(\d(?:\.\d)?)", text)
    return 10.0 * "KMLT".index(match[1]) + float(match[2]) if match else math.nan


def number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan


def one_name_per_object(sources):
    """Entries of the source table that are one object on the sky, by source key: the table has repeats under other keys.

    Joined are entries with the same name, designation, SIMBAD object or three magnitudes, and those within 10 arcsec.
    """
    parent = {row["SOURCE_KEY"]: row["SOURCE_KEY"] for row in sources}

    def root(key):
        while parent[key] != key:
            key = parent[key]
        return key

    def join(a, b):
        first, second = sorted([root(a), root(b)])
        parent[second] = first

    for columns in (["NAME"], ["DESIGNATION"], ["SIMBAD_NAME"], BANDS):
        seen = {}
        for row in sources:
            value = tuple(row[column].strip() for column in columns)
            if all(value):
                join(row["SOURCE_KEY"], seen.setdefault(value, row["SOURCE_KEY"]))
    places = sorted((number(row["DEC"]), number(row["RA"]), row["SOURCE_KEY"]) for row in sources if row["DEC"] and row["RA"])
    near = 10.0 / 3600.0
    for index, (dec, ra, key) in enumerate(places):
        for other_dec, other_ra, other in places[index + 1 :]:
            if other_dec - dec > near:
                break
            apart = (abs(ra - other_ra) + 180.0) % 360.0 - 180.0
            if abs(apart) * math.cos(math.radians(dec)) < near:
                join(key, other)
    return {key: f"source-{root(key)}" for key in parent}


def in_test(source):
    """Whether all spectra of a source go to the test file: a salted hash, so that other splits by hash are independent of it."""
    digest = hashlib.sha256(f"spex sample split: {source}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64 < TEST_FRACTION


class Funnel:
    """Counts what each cut leaves, in order."""

    def __init__(self, rows):
        self.rows = rows
        self.report("spectra in the library")

    def report(self, name):
        print(f"{len(self.rows):6d}  {name}")

    def keep(self, name, accept):
        self.rows = [row for row in self.rows if accept(row)]
        self.report(name)


def spectra(wheel):
    sources = table(wheel, "splat/db/source_data.csv")
    source_of = {row["SOURCE_KEY"]: row for row in sources}
    object_of = one_name_per_object(sources)
    responses = [filter_response(wheel, band) for band in BANDS]
    folder = "splat/resources/Spectra/Public/SPEX-PRISM"
    files = set(wheel.namelist())
    # The source's columns that share a name with the spectrum's are the spectrum's NOTE and SOURCE_KEY.
    rows = [{**source_of.get(row["SOURCE_KEY"], {}), **row} for row in table(wheel, "splat/db/spectral_data.csv")]

    def has_spectrum(row):
        row["native"] = native_spectrum(wheel.read(f"{folder}/{row['DATA_FILE']}.gz"))
        return row["native"] is not None

    def covers_grid(row):
        flux, sigma = rebin(*row["native"])
        window = (CENTRES > NORMALISATION_WINDOW[0]) & (CENTRES < NORMALISATION_WINDOW[1]) & (sigma > 0.0)
        unmasked = sigma > 0.0
        if np.count_nonzero(unmasked) < 0.95 * GRID_SIZE or not np.any(window):
            return False
        level = np.median(flux[window])
        if not level > 0.0:
            return False
        row["flux"], row["sigma"] = (flux / level).astype(np.float32), (sigma / level).astype(np.float32)
        row["snr"] = float(np.median(flux[unmasked] / sigma[unmasked]))
        row["n_masked"] = int(GRID_SIZE - np.count_nonzero(unmasked))
        return True

    def has_type(row):
        row["type"] = spex_type(row["SPEX_TYPE"])
        return row["type"] is not None

    def has_magnitudes(row):
        row["magnitudes"] = [number(row[band]) for band in BANDS]
        row["errors"] = [number(row[f"{band}_E"]) for band in BANDS]
        return all(math.isfinite(m) for m in row["magnitudes"]) and all(e > 0.0 for e in row["errors"])

    def colours_agree(row):
        """Colours of the spectrum itself against the photometry: finds wrong matches, copied columns and other filter systems."""
        wavelength, flux, _ = row["native"]
        difference = np.array(row["magnitudes"]) - np.array(synthetic_magnitudes(wavelength, flux, responses))
        j, h, ks = row["errors"]
        for value, error in ((difference[0] - difference[1], math.hypot(j, h)), (difference[1] - difference[2], math.hypot(h, ks))):
            if not abs(value) < 3.0 * math.hypot(error, FLUX_CALIBRATION):
                return False
        return True

    def types_agree(row):
        difference = row["type"][0] - published_type(row["LIT_TYPE"])
        return math.isnan(difference) or abs(difference) <= MOST_TYPE_DIFFERENCE

    seen_flux = set()

    def is_new(row):
        digest = hashlib.sha256(row["flux"].tobytes()).hexdigest()
        fresh = digest not in seen_flux
        seen_flux.add(digest)
        return fresh

    funnel = Funnel(sorted(rows, key=lambda row: int(row["DATA_KEY"])))
    funnel.keep("with a source and a file", lambda row: "NAME" in row and f"{folder}/{row['DATA_FILE']}.gz" in files)
    funnel.keep("with noise", has_spectrum)
    funnel.keep("quality OK, no note of a problem", lambda row: row["QUALITY_FLAG"] == "OK" and not row["NOTE"].strip())
    funnel.keep("stars and brown dwarfs", lambda row: row["OBJECT_TYPE"] in ("VLM", "STAR"))
    funnel.keep("not giants", lambda row: not row["LUMINOSITY_CLASS"] and "giant" not in row["LIBRARY"])
    funnel.keep("not subdwarfs", lambda row: not row["METALLICITY_CLASS"] and "subdwarf" not in row["LIBRARY"])
    funnel.keep("SpeX type M0 to T9", has_type)
    funnel.keep("J, H and Ks with errors", has_magnitudes)
    funnel.keep(f"errors at most {MOST_MAGNITUDE_ERROR} mag", lambda row: max(row["errors"]) <= MOST_MAGNITUDE_ERROR)
    funnel.keep(f"errors at least {LEAST_MAGNITUDE_ERROR} mag", lambda row: min(row["errors"]) >= LEAST_MAGNITUDE_ERROR)
    funnel.keep("at least 95 % of the grid", covers_grid)
    funnel.keep("median signal-to-noise at least 10", lambda row: row["snr"] >= 10.0)
    funnel.keep("type within 3 of the published one", types_agree)
    funnel.keep("colours within 3 sigma of the spectrum's own", colours_agree)
    funnel.keep("not the same spectrum again", is_new)
    for row in funnel.rows:
        row["object"] = object_of[row["SOURCE_KEY"]]
    return funnel.rows


def as_table(rows):
    def lists(values, kind):
        return pa.array(values, pa.list_(pa.field("element", kind, nullable=False)))

    def label_covariance(row):
        j, h, ks = (error**2 for error in row["errors"])
        return [row["type"][1] ** 2, 0.0, 0.0, 0.0, j + h, -h, 0.0, -h, h + ks]

    columns = {
        "id": pa.array([f"spex-{row['DATA_KEY']}" for row in rows], pa.string()),
        "source": pa.array([row["object"] for row in rows], pa.string()),
        "name": pa.array([row["NAME"] for row in rows], pa.string()),
        "spex_type": pa.array([row["SPEX_TYPE"] for row in rows], pa.string()),
        "reference": pa.array([row["BIBCODE"] for row in rows], pa.string()),
        "flux": lists([row["flux"] for row in rows], pa.float32()),
        "sigma": lists([row["sigma"] for row in rows], pa.float32()),
        "spt": pa.array([row["type"][0] for row in rows], pa.float64()),
        "j_h": pa.array([round(row["magnitudes"][0] - row["magnitudes"][1], 6) for row in rows], pa.float64()),
        "h_ks": pa.array([round(row["magnitudes"][1] - row["magnitudes"][2], 6) for row in rows], pa.float64()),
        "label_cov": lists([label_covariance(row) for row in rows], pa.float64()),
        "snr": pa.array([row["snr"] for row in rows], pa.float64()),
        "n_masked": pa.array([row["n_masked"] for row in rows], pa.int32()),
    }
    described = {
        "wavelength": {"unit": "micron", "medium": "vacuum", "values": [round(float(value), 9) for value in CENTRES]},
        "labels": {
            "names": [name for name, _ in LABELS],
            "units": [unit for _, unit in LABELS],
            "spt": "K0 = 0, M0 = 10, L0 = 20, T0 = 30, T9 = 39",
            "label_cov": "3 x 3, row-major, squares of the labels' units",
        },
        "flux": f"flux density per wavelength over its median in {NORMALISATION_WINDOW[0]} to {NORMALISATION_WINDOW[1]} micron",
        "sigma": "standard error of flux, same unit; 0 = masked",
        "source": f"{WHEEL} (MIT)",
    }
    table = pa.table(columns)
    return table.replace_schema_metadata({key: value if isinstance(value, str) else json.dumps(value) for key, value in described.items()})


def write(path, rows):
    pq.write_table(
        as_table(rows),
        path,
        row_group_size=128,
        compression="zstd",
        compression_level=9,
        use_dictionary=["source", "name", "spex_type", "reference"],
        version="2.6",
    )
    types = [row["type"][0] for row in rows]
    counts = [sum(10.0 * i <= t < 10.0 * (i + 1) for t in types) for i in (1, 2, 3)]
    sources = len({row["object"] for row in rows})
    print(f"{path.name}: {len(rows)} spectra of {sources} sources, M {counts[0]}, L {counts[1]}, T {counts[2]}, {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=pathlib.Path, help="the wheel, if it is here already")
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.wheel
        if path is None:
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL], check=True)
            path = next(pathlib.Path(scratch).glob("*.whl"))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != WHEEL_SHA256:
            sys.exit(f"{path} is not the wheel this sample was made from: sha256 {digest}, expected {WHEEL_SHA256}")
        with zipfile.ZipFile(path) as wheel, np.errstate(invalid="ignore", divide="ignore"):
            rows = spectra(wheel)
    write(arguments.output / "train.parquet", [row for row in rows if not in_test(row["object"])])
    write(arguments.output / "test.parquet", [row for row in rows if in_test(row["object"])])


if __name__ == "__main__":
    main()
