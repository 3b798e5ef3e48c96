//! Line charts as SVG, drawn here.

use std::fmt::Write as _;

use crate::html::E;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 22.0;
const TOP: f64 = 8.0;
/// Seconds a chart spans at the least.
const SHORTEST: f64 = 300.0;
/// Colours in the style sheet.
const COLOURS: usize = 6;

/// A line of a chart.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// How numbers of a chart are written.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Seconds,
    PerSecond,
    Percent,
    Count,
}

impl Unit {
    pub(crate) fn text(self, value: f64) -> String {
        let plain = |v: f64| {
            if v >= 100.0 {
                format!("{v:.0}")
            } else if v >= 10.0 {
                format!("{v:.1}")
            } else {
                format!("{v:.2}")
            }
        };
        match self {
            _ if value == 0.0 => "0".to_owned(),
            Self::Seconds if value < 1.0 => format!("{} ms", plain(value * 1000.0)),
            Self::Seconds => format!("{} s", plain(value)),
            Self::PerSecond => format!("{}/s", plain(value)),
            Self::Percent => format!("{} %", plain(value)),
            Self::Count => plain(value).trim_end_matches(".00").to_owned(),
        }
    }
}

/// The least of 1, 2, 5 times a power of ten that is not below.
fn round_up(value: f64) -> f64 {
    if value.is_nan() || value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(value)
}

/// A figure with its legend. `from` and `to` are seconds since the epoch.
pub(crate) fn figure(title: &str, unit: Unit, from: f64, to: f64, lines: &[Line]) -> String {
    let values =
        || lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).filter(|v| v.is_finite());
    if values().next().is_none() {
        return format!(
            "<figure><figcaption>{}</figcaption><p class=\"none\">No data in this time.</p></figure>",
            E(title)
        );
    }
    // A young service is not drawn into a corner.
    let first = lines.iter().flat_map(|line| &line.points).map(|(at, _)| *at).fold(to, f64::min);
    let from = from.max(first.min(to - SHORTEST));
    let top = round_up(values().fold(0.0, f64::max));
    let x = |at: f64| LEFT + (at - from) / (to - from).max(1.0) * (WIDTH - LEFT - 8.0);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP);
    let mut out = format!(
        "<figure><figcaption>{0}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">",
        E(title)
    );
    for part in [0.0, 0.5, 1.0] {
        let (at, text) = (y(top * part), unit.text(top * part));
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - 8.0
        );
        let _ =
            write!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 6.0, at + 4.0);
    }
    let minutes = ((to - from) / 60.0).round();
    let _ = write!(out, "<text x=\"{LEFT}\" y=\"{}\">{minutes} min ago</text>", HEIGHT - 6.0);
    let _ = write!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">now</text>", WIDTH - 8.0, HEIGHT - 6.0);
    for (at, line) in lines.iter().enumerate() {
        out.push_str(&path(line, at, &x, &y));
    }
    out.push_str("</svg><ul class=\"legend\">");
    for (at, line) in lines.iter().enumerate() {
        let last = line.points.iter().rev().map(|(_, v)| *v).find(|v| v.is_finite());
        let last = last.map_or_else(|| "–".to_owned(), |value| unit.text(value));
        let _ =
            write!(out, "<li class=\"c{}\"><span>{}</span> <b>{last}</b></li>", at % COLOURS, E(&line.name));
    }
    out + "</ul></figure>"
}

/// A gap where there is no number, a dot where there is one alone.
fn path(line: &Line, at: usize, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut pen = 'M';
    for (when, value) in &line.points {
        if value.is_finite() {
            let dot = if pen == 'M' { "h.01" } else { "" };
            let _ = write!(path, "{pen}{:.1} {:.1}{dot}", x(*when), y(value.max(0.0)));
            pen = 'L';
        } else {
            pen = 'M';
        }
    }
    format!("<path class=\"c{}\" d=\"{path}\"/>", at % COLOURS)
}
