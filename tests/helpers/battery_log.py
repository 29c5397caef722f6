"""What a cycler logs of a cell with a simple law, so that every curve is known: for tests of readers."""

import numpy as np

NOMINAL = 1.1
STEPS = ((5.0, 0.0, 0.4), (4.0, 0.4, 0.8), (1.0, 0.8, 1.0))
"""C-rate, share of charge where it begins and ends."""


def rate(share):
    return np.where(share <= 0.4, 5.0, np.where(share <= 0.8, 4.0, 1.0))


def charge_voltage(share):
    return 3.0 + 0.5 * share


def discharged(voltage, capacity):
    """Ah given when the voltage has fallen to V: 3.5 V fresh, 2.0 V empty."""
    return capacity * (3.5 - voltage) / 1.5


def cycle(capacity, samples=40):
    """One cycle in SI units and Ah: charge in three steps, a rest after each, a discharge with 4C.

    Returns:
        time (s), voltage, current (C-rate), temperature, charged and discharged (Ah).
    """
    time, share, current = [0.0], [0.0], [0.0]
    for c_rate, begin, end in STEPS:
        hours = (end - begin) * capacity / NOMINAL / c_rate
        time += (time[-1] + 1e-3 + 3600 * np.linspace(0, hours, samples)).tolist() + [time[-1] + 3600 * hours + 30]
        share += np.linspace(begin, end, samples).tolist() + [end]
        current += [c_rate] * samples + [0.0]
    charge = np.stack([time, charge_voltage(np.array(share)), current, 30 + np.array(current), share])
    given = np.linspace(0, 1, 3 * samples)
    times = time[-1] + 1 + given * 3600 * capacity / NOMINAL / 4
    discharge = np.stack([times, 3.5 - 1.5 * given, np.full(len(given), -4.0), 34 - given, given])
    whole = np.concatenate([charge, discharge], 1)
    filled = np.append(charge[4], np.ones(len(given))) * capacity
    emptied = np.append(np.zeros(len(time)), discharge[4]) * capacity
    return whole[0], whole[1], whole[2], whole[3], filled, emptied
