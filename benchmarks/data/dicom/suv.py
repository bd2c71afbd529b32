"""Standardised uptake values of a PET, by body weight.

Source: Quantitative Imaging Biomarkers Alliance, "SUV vendor neutral pseudo-code" (happy path), and DICOM PS3.3
C.8.9.1 (PET series) and C.8.9.4 (PET image).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

PHILIPS_SUV_FACTOR = (0x7053, 0x1000)  # private: what counts are multiplied with to give SUV
DAY_SECONDS = 86_400


def suv_factor(headers: Sequence[Any]) -> tuple[float | None, str]:
    """What the values of a PET are multiplied with to give body-weight SUV; None, and why, where the headers lack it.

    Args:
        headers: of all slices.
    """
    header = headers[0]
    units = str(header.get("Units") or "")
    if units == "GML":
        kind = str(header.get("SUVType") or "BW")
        return (1.0, "") if kind == "BW" else (None, f"its values are SUV by {kind}, not by body weight")
    if units == "CNTS":
        element = header.get(PHILIPS_SUV_FACTOR)
        factor = _number(element.value if element is not None else None)
        return (factor, "") if factor else (None, "its values are counts")
    if units != "BQML":
        return None, f"its values are in {units or 'units that the header does not say'}"
    corrected = {str(word) for word in _listed(header.get("CorrectedImage"))}
    for word, name in (("ATTN", "attenuation"), ("DECY", "decay")):
        if word not in corrected:
            return None, f"it is not corrected for {name}"
    weight = _number(header.get("PatientWeight"))
    if not weight:
        return None, "the patient's weight is not given"
    sources = _listed(header.get("RadiopharmaceuticalInformationSequence"))
    if not sources:
        return None, "the radiopharmaceutical is not described"
    dose, half_life = (_number(sources[0].get(name)) for name in ("RadionuclideTotalDose", "RadionuclideHalfLife"))
    if not dose or not half_life:
        return None, "dose or half-life of the radionuclide is not given"
    return _from_dose(headers, sources[0], weight * 1000, dose, half_life)


def _from_dose(
    headers: Sequence[Any], source: Any, grams: float, dose: float, half_life: float
) -> tuple[float | None, str]:
    to = str(headers[0].get("DecayCorrection") or "")
    if to == "ADMIN":  # to the time of the injection: the whole dose counts
        return grams / dose, ""
    if to != "START":
        return None, f"its decay is corrected to '{to}'"
    scanned, injected = _scan_start(headers), _injected(headers[0], source)
    if scanned is None or injected is None:
        return None, "the time of the injection or of the scan is not given"
    seconds = (scanned - injected).total_seconds()
    if not 0 <= seconds < DAY_SECONDS:
        return None, f"the scan begins {seconds:g} s after the injection"
    return grams / (dose * math.exp2(-seconds / half_life)), ""


def _scan_start(headers: Sequence[Any]) -> datetime | None:
    """To what time START refers: the series', unless reconstruction has changed it to one after the acquisition."""
    series = _moment(headers[0], "SeriesDate", "SeriesTime")
    acquired = [_moment(one, "AcquisitionDate", "AcquisitionTime") for one in headers]
    known = [one for one in acquired if one is not None]
    first = min(known, default=None)
    if series is not None and (first is None or series <= first):
        return series
    return first if len(known) == len(headers) else None


def _injected(header: Any, source: Any) -> datetime | None:
    whole = str(source.get("RadiopharmaceuticalStartDateTime") or "")
    if whole:
        return _parsed(whole[:8], whole[8:])
    date = str(header.get("SeriesDate") or header.get("AcquisitionDate") or "")
    return _parsed(date, str(source.get("RadiopharmaceuticalStartTime") or ""))


def _moment(header: Any, date: str, time: str) -> datetime | None:
    return _parsed(str(header.get(date) or ""), str(header.get(time) or ""))


def _parsed(date: str, time: str) -> datetime | None:
    digits = time.split("+")[0].split("-")[0].split(".")[0].strip()
    if len(date.strip()) != 8 or len(digits) < 4:
        return None
    try:
        return datetime.strptime(date.strip() + digits[:6].ljust(6, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    """A positive number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else list(value)
