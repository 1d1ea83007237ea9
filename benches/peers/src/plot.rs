//! Writes plots as SVG by hand: lines on logarithmic axes, and bars.

use serde::Serialize;
use std::fmt::Write;

#[derive(Debug, Serialize)]
pub(crate) struct Chart {
    /// The name of the plot's file, without the extension.
    pub(crate) file: &'static str,
    pub(crate) title: String,
    /// The meaning of x. None for bars.
    pub(crate) x: String,
    /// The meaning of y, with its unit.
    pub(crate) y: String,
    pub(crate) data: Data,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Data {
    Lines(Vec<Line>),
    Bars(Vec<(String, f64)>),
}

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// The position of the axes.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 560.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 364.0;
/// The position where the bars begin, after their names.
const BARS: f64 = 200.0;

/// Colours that are distinct on white and on black, also for people who see fewer colours.
const COLOURS: [&str; 6] = [
    "#0f8b8d", "#d1495b", "#6a70d8", "#c98a1b", "#6d8f3c", "#8a8a8a",
];

const STYLE: &str = "<style>\
    text{font:13px system-ui,sans-serif;fill:#24292f}\
    .title{font-size:16px;font-weight:600}\
    .paper{fill:#fff}.grid{stroke:#d8dee4}.axis{stroke:#57606a}\
    @media(prefers-color-scheme:dark){\
    text{fill:#d7dde4}.paper{fill:#0d1117}.grid{stroke:#30363d}.axis{stroke:#8b949e}}\
    </style>";

impl Chart {
    pub(crate) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"{title}\">\n{STYLE}\n\
             <rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n\
             <text class=\"title\" x=\"16\" y=\"28\">{title}</text>\n",
            title = escaped(&self.title),
        );
        match &self.data {
            Data::Lines(lines) => self.lines(&mut svg, lines),
            Data::Bars(bars) => self.bars(&mut svg, bars),
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn lines(&self, svg: &mut String, lines: &[Line]) {
        let points = || lines.iter().flat_map(|line| &line.points);
        let x = Axis::tight(points().map(|point| point.0), LEFT, RIGHT);
        let y = Axis::new(points().map(|point| point.1), BOTTOM, TOP);
        for (tick, at) in y.ticks() {
            rule(svg, "grid", (LEFT, at), (RIGHT, at));
            text(svg, "end", LEFT - 8.0, at + 4.0, &tick);
        }
        for (value, at) in x.values(points().map(|point| point.0)) {
            rule(svg, "grid", (at, TOP), (at, BOTTOM));
            text(svg, "middle", at, BOTTOM + 20.0, &value);
        }
        rule(svg, "axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
        rule(svg, "axis", (LEFT, TOP), (LEFT, BOTTOM));
        text(svg, "middle", (LEFT + RIGHT) / 2.0, HEIGHT - 14.0, &self.x);
        let middle = (TOP + BOTTOM) / 2.0;
        let _ = writeln!(
            svg,
            "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escaped(&self.y),
        );
        for (place, (line, colour)) in lines.iter().zip(COLOURS).enumerate() {
            // The peers' lines are dashed, each in its own way.
            let dashes = ["none", "7 3", "2 3", "9 3 2 3", "5 5", "1 4"][place % 6];
            let at: Vec<(f64, f64)> = line
                .points
                .iter()
                .map(|point| (x.place(point.0), y.place(point.1)))
                .collect();
            let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" \
                 stroke-dasharray=\"{dashes}\"/>",
                path.join(" "),
            );
            for (x, y) in at {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"
                );
            }
            let row = TOP + 14.0 + 24.0 * place as f64;
            let _ = writeln!(
                svg,
                "<line x1=\"{}\" y1=\"{row}\" x2=\"{}\" y2=\"{row}\" stroke=\"{colour}\" \
                 stroke-width=\"2.5\" stroke-dasharray=\"{dashes}\"/>",
                RIGHT + 14.0,
                RIGHT + 40.0,
            );
            text(svg, "start", RIGHT + 46.0, row + 4.0, &line.name);
        }
    }

    fn bars(&self, svg: &mut String, bars: &[(String, f64)]) {
        let x = Axis::new(bars.iter().map(|bar| bar.1), BARS, WIDTH - 100.0);
        for (tick, at) in x.ticks() {
            rule(svg, "grid", (at, TOP), (at, BOTTOM));
            text(svg, "middle", at, BOTTOM + 20.0, &tick);
        }
        let step = (BOTTOM - TOP) / bars.len() as f64;
        for (place, ((name, value), colour)) in bars.iter().zip(COLOURS).enumerate() {
            let middle = TOP + step * (place as f64 + 0.5);
            let end = x.place(*value);
            let height = (step * 0.6).min(40.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{BARS}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" \
                 fill=\"{colour}\" rx=\"2\"/>",
                middle - height / 2.0,
                end - BARS,
            );
            text(svg, "end", BARS - 10.0, middle + 4.0, name);
            text(svg, "start", end + 8.0, middle + 4.0, &short(*value));
        }
        rule(svg, "axis", (BARS, TOP), (BARS, BOTTOM));
        text(
            svg,
            "middle",
            (BARS + WIDTH - 100.0) / 2.0,
            HEIGHT - 14.0,
            &self.y,
        );
    }
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// Returns the axis from the half decade below all values to the one above.
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = logs(values);
        let half = |log: f64, round: fn(f64) -> f64| round(log * 2.0) / 2.0;
        Self {
            low: half(low - 0.05, f64::floor),
            high: half(high + 0.05, f64::ceil),
            from,
            to,
        }
    }

    /// Returns an axis hardly wider than the values.
    fn tight(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = logs(values);
        let margin = 0.05 * (high - low) + 0.01;
        Self {
            low: low - margin,
            high: high + margin,
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Returns 1, 2 and 5 of each decade, or only 1 if there are many decades.
    fn ticks(&self) -> Vec<(String, f64)> {
        let steps: &[f64] = match self.high - self.low {
            0.0..3.1 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let mut ticks = Vec::new();
        for decade in self.low.floor() as i32..=self.high.ceil() as i32 {
            for step in steps {
                let value = step * 10_f64.powi(decade);
                let log = value.log10();
                if log >= self.low - 1e-9 && log <= self.high + 1e-9 {
                    ticks.push((short(value), self.place(value)));
                }
            }
        }
        ticks
    }

    /// Returns the measured values, each once.
    fn values(&self, values: impl Iterator<Item = f64>) -> Vec<(String, f64)> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let tick = |value: &f64| (short(*value), self.place(*value));
        values.iter().map(tick).collect()
    }
}

/// Returns the least and the greatest logarithm of the values above zero.
fn logs(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let logs = values.filter(|value| *value > 0.0).map(f64::log10);
    logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), log| {
        (low.min(log), high.max(log))
    })
}

fn rule(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn text(svg: &mut String, anchor: &str, x: f64, y: f64, text: &str) {
    let text = escaped(text);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

/// Returns a number with at most three significant digits, and with separated thousands.
fn short(value: f64) -> String {
    let digits = match value {
        1000.0.. => {
            let whole = value.round().to_string();
            let mut text = String::new();
            for (place, digit) in whole.chars().enumerate() {
                if place > 0 && (whole.len() - place).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            return text;
        }
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
