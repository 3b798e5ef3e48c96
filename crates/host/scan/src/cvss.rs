//! Base scores of CVSS vectors, version 2 to 4, as FIRST's specifications compute them.

use std::collections::HashMap;

/// The base score of a vector; `None` when it is not one of version 2, 3 or 4, or lacks a metric.
pub fn base_score(vector: &str) -> Option<f64> {
    let (version, rest) = match vector.trim().strip_prefix("CVSS:") {
        Some(rest) => rest.split_once('/')?,
        None => ("2.0", vector.trim().trim_matches(['(', ')'])),
    };
    let metrics: HashMap<&str, &str> = rest.split('/').filter_map(|part| part.split_once(':')).collect();
    let value = |name: &str, values: &[(&str, f64)]| -> Option<f64> {
        let given = metrics.get(name)?;
        values.iter().find(|(key, _)| key == given).map(|(_, value)| *value)
    };
    match version {
        "3.0" | "3.1" => version_3(value),
        "2.0" => version_2(value),
        "4.0" => version_4(|name| metrics.get(name).copied()),
        _ => None,
    }
}

fn version_3(value: impl Fn(&str, &[(&str, f64)]) -> Option<f64>) -> Option<f64> {
    let changed = value("S", &[("U", 0.0), ("C", 1.0)])? > 0.0;
    let vector = value("AV", &[("N", 0.85), ("A", 0.62), ("L", 0.55), ("P", 0.2)])?;
    let complexity = value("AC", &[("L", 0.77), ("H", 0.44)])?;
    let privileges = match changed {
        true => value("PR", &[("N", 0.85), ("L", 0.68), ("H", 0.5)])?,
        false => value("PR", &[("N", 0.85), ("L", 0.62), ("H", 0.27)])?,
    };
    let interaction = value("UI", &[("N", 0.85), ("R", 0.62)])?;
    let mut kept = 1.0;
    for metric in ["C", "I", "A"] {
        kept *= 1.0 - value(metric, &[("H", 0.56), ("L", 0.22), ("N", 0.0)])?;
    }
    let sub_score = 1.0 - kept;
    let impact = match changed {
        true => 7.52 * (sub_score - 0.029) - 3.25 * (sub_score - 0.02_f64).powi(15),
        false => 6.42 * sub_score,
    };
    if impact <= 0.0 {
        return Some(0.0);
    }
    let exploitability = 8.22 * vector * complexity * privileges * interaction;
    let sum = impact + exploitability;
    Some(round_up(if changed { (1.08 * sum).min(10.0) } else { sum.min(10.0) }))
}

/// To the next tenth, without the errors of binary fractions.
fn round_up(value: f64) -> f64 {
    let scaled = (value * 100_000.0).round() as i64;
    match scaled % 10_000 {
        0 => scaled as f64 / 100_000.0,
        _ => (scaled / 10_000 + 1) as f64 / 10.0,
    }
}

fn version_2(value: impl Fn(&str, &[(&str, f64)]) -> Option<f64>) -> Option<f64> {
    let vector = value("AV", &[("L", 0.395), ("A", 0.646), ("N", 1.0)])?;
    let complexity = value("AC", &[("H", 0.35), ("M", 0.61), ("L", 0.71)])?;
    let authentication = value("Au", &[("M", 0.45), ("S", 0.56), ("N", 0.704)])?;
    let mut kept = 1.0;
    for metric in ["C", "I", "A"] {
        kept *= 1.0 - value(metric, &[("N", 0.0), ("P", 0.275), ("C", 0.66)])?;
    }
    let impact = 10.41 * (1.0 - kept);
    if impact == 0.0 {
        return Some(0.0);
    }
    let exploitability = 20.0 * vector * complexity * authentication;
    let score = (0.6 * impact + 0.4 * exploitability - 1.5) * 1.176;
    Some((score * 10.0).round() / 10.0)
}

/// Scores of version 4 by classes of vectors (specification, 8.2): attack (EQ1), complexity (EQ2), impact on
/// the system (EQ3 with EQ6: 00, 01, 10, 11, 21), and, in pairs, impact on others (EQ4: high, not high).
const CLASSES: [[[[f64; 2]; 5]; 2]; 3] = [
    [
        [[10.0, 9.3], [9.6, 9.0], [9.3, 8.8], [9.2, 8.0], [7.9, 6.9]],
        [[9.5, 9.2], [9.1, 8.1], [9.2, 8.4], [8.2, 7.0], [7.1, 6.3]],
    ],
    [
        [[9.4, 8.7], [8.9, 7.5], [8.6, 7.2], [7.6, 5.7], [6.5, 5.3]],
        [[9.0, 7.7], [7.7, 6.6], [7.4, 6.1], [5.9, 5.2], [5.8, 2.3]],
    ],
    [
        [[8.6, 7.0], [7.4, 5.4], [7.2, 5.3], [5.7, 3.6], [4.7, 2.4]],
        [[7.3, 5.4], [5.5, 4.3], [6.1, 4.6], [5.1, 1.8], [2.4, 1.0]],
    ],
];

/// Steps of a vector below the worst of its class, and how many steps the class has.
type Depth = (f64, f64);

/// The class's score, less the mean of how far the vector lies towards each next lower class. Threat and
/// environment are left at their worst, as for every base score.
fn version_4<'a>(metric: impl Fn(&str) -> Option<&'a str>) -> Option<f64> {
    let level = |name: &str, worst_first: &str| worst_first.find(metric(name).filter(|v| v.len() == 1)?);
    let attack = [level("AV", "NALP")?, level("PR", "NLH")?, level("UI", "NPA")?];
    let complexity = [level("AC", "LH")?, level("AT", "NP")?];
    let system = [level("VC", "HLN")?, level("VI", "HLN")?, level("VA", "HLN")?];
    let others = [level("SC", "HLN")?, level("SI", "HLN")?, level("SA", "HLN")?];
    if system.iter().chain(&others).all(|level| *level == 2) {
        return Some(0.0);
    }
    let eq1 = match attack {
        [0, 0, 0] => 0,
        [3, ..] => 2,
        levels if levels.contains(&0) => 1,
        _ => 2,
    };
    let eq2 = usize::from(complexity != [0, 0]);
    let eq3 = match system {
        [0, 0, _] => 0,
        levels if levels.contains(&0) => 2,
        _ => 4,
    };
    let eq4 = usize::from(!others.contains(&0));
    let score = |a: usize, b: usize, c: usize, d: usize| CLASSES.get(a)?.get(b)?.get(c)?.get(d).copied();
    let value = score(eq1, eq2, eq3, eq4)?;
    // The next lower class of each kind; of the worst impact there are two, and the higher counts.
    let lower_impact = match eq3 {
        0 => score(eq1, eq2, 1, eq4).max_with(score(eq1, eq2, 2, eq4)),
        2 => score(eq1, eq2, 3, eq4),
        _ => None,
    };
    let steps: [(Option<f64>, Depth); 4] = [
        (score(eq1 + 1, eq2, eq3, eq4), (below(&attack, WORST_ATTACK.get(eq1)?)?, [1.0, 4.0, 5.0][eq1])),
        (score(eq1, eq2 + 1, eq3, eq4), (below(&complexity, WORST_COMPLEXITY.get(eq2)?)?, [1.0, 2.0][eq2])),
        (lower_impact, (below(&system, WORST_SYSTEM.get(eq3)?)?, if eq3 == 0 { 7.0 } else { 8.0 })),
        (score(eq1, eq2, eq3, eq4 + 1), (below(&others, &[[eq4; 3]])?, 5.0)),
    ];
    let mut sum = 0.0;
    // The class with a lower threat always exists, at no distance.
    let mut count = 1.0;
    for (lower, (distance, depth)) in steps {
        if let Some(lower) = lower {
            sum += (value - lower) * distance / depth;
            count += 1.0;
        }
    }
    let exact: f64 = (value - sum / count).clamp(0.0, 10.0);
    Some(((exact + 1e-6) * 10.0).round() / 10.0)
}

trait MaxWith {
    fn max_with(self, other: Self) -> Self;
}

impl MaxWith for Option<f64> {
    fn max_with(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        }
    }
}

/// The worst vectors of each class, as levels of its metrics.
const WORST_ATTACK: [&[[usize; 3]]; 3] =
    [&[[0, 0, 0]], &[[1, 0, 0], [0, 1, 0], [0, 0, 1]], &[[3, 0, 0], [1, 1, 1]]];
const WORST_COMPLEXITY: [&[[usize; 2]]; 2] = [&[[0, 0]], &[[1, 0], [0, 1]]];
const WORST_SYSTEM: [&[[usize; 3]]; 5] = [&[[0, 0, 0]], &[], &[[1, 0, 0], [0, 1, 0]], &[], &[[1, 1, 1]]];

/// Steps from the first of the worst vectors that is nowhere better than `levels`.
fn below<const N: usize>(levels: &[usize; N], worst: &[[usize; N]]) -> Option<f64> {
    let fits = |worst: &&[usize; N]| worst.iter().zip(levels).all(|(worst, level)| worst <= level);
    let from = worst.iter().find(fits)?;
    Some(from.iter().zip(levels).map(|(from, level)| level - from).sum::<usize>() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_known_vectors() {
        for (vector, score) in [
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", Some(9.8)),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", Some(10.0)),
            ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", Some(6.1)),
            ("CVSS:3.1/AV:L/AC:H/PR:L/UI:N/S:U/C:N/I:N/A:H", Some(4.7)),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", Some(0.0)),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H/E:P", Some(7.5)),
            ("CVSS:3.1/AV:P/AC:L/PR:H/UI:N/S:C/C:L/I:N/A:N", Some(2.2)),
            ("AV:N/AC:L/Au:N/C:C/I:C/A:C", Some(10.0)),
            ("(AV:N/AC:M/Au:N/C:P/I:N/A:N)", Some(4.3)),
            ("CVSS:3.1/AV:N", None),
            ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", Some(9.3)),
            ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H", Some(10.0)),
            ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:N/VI:N/VA:H/SC:N/SI:N/SA:N", Some(8.7)),
            ("CVSS:4.0/AV:N/AC:L/AT:N/PR:L/UI:N/VC:L/VI:N/VA:N/SC:N/SI:N/SA:N", Some(5.3)),
            ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:N/VI:N/VA:N/SC:N/SI:N/SA:N", Some(0.0)),
            ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H", None),
            ("", None),
        ] {
            assert_eq!(base_score(vector), score, "{vector}");
        }
    }
}
