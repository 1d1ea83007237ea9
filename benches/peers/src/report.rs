//! Writes the results: rows with figures and verdicts, as Markdown and as JSON.

use crate::machine::Machine;
use crate::peers::Kind;
use crate::plot::Chart;
use crate::stats::{Ratio, Sample, ratio};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::fs;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Microseconds.
    Time,
    Bytes,
    PerSecond,
    Plain,
}

impl Unit {
    fn write(self, value: f64) -> String {
        let steps: &[(f64, &str)] = match self {
            Self::Time => &[(1e6, " s"), (1e3, " ms"), (1.0, " µs")],
            Self::Bytes => &[(1048576.0, " MiB"), (1024.0, " KiB"), (1.0, " B")],
            Self::PerSecond => &[(1e6, " M/s"), (1e3, " k/s"), (1.0, "/s")],
            Self::Plain => &[(1.0, "")],
        };
        let fits = |(step, _): &&(f64, &str)| value >= *step;
        let (step, name) = steps.iter().find(fits).unwrap_or(&steps[steps.len() - 1]);
        let value = value / step;
        let digits = match value {
            _ if value.fract() == 0.0 => 0,
            100.0.. => 0,
            10.0.. => 1,
            _ => 2,
        };
        format!("{value:.digits$}{name}")
    }
}

/// The measurements of one peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) of: String,
    unit: Unit,
    median: f64,
    p25: f64,
    p75: f64,
    p99: f64,
    max: f64,
    count: usize,
}

impl Figure {
    pub(crate) fn new(of: impl Into<String>, unit: Unit, sample: &Sample) -> Self {
        Self {
            of: of.into(),
            unit,
            median: sample.median(),
            p25: sample.quantile(0.25),
            p75: sample.quantile(0.75),
            p99: sample.quantile(0.99),
            max: sample.max(),
            count: sample.0.len(),
        }
    }

    pub(crate) fn one(of: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self::new(of, unit, &Sample(vec![value]))
    }

    fn text(&self) -> String {
        let write = |value| self.unit.write(value);
        if self.count == 1 {
            return write(self.median);
        }
        let (median, p25, p75) = (write(self.median), write(self.p25), write(self.p75));
        format!("{median} ({p25} – {p75})")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// The row has no target.
    Shown,
    Skipped(String),
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    lockmgr: Option<Figure>,
    peers: Vec<Figure>,
    ratio: Option<Ratio>,
    target: String,
    verdict: Verdict,
    note: String,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, lockmgr: Figure) -> Self {
        Self {
            what: what.into(),
            lockmgr: Some(lockmgr),
            peers: Vec::new(),
            ratio: None,
            target: String::new(),
            verdict: Verdict::Shown,
            note: String::new(),
        }
    }

    /// Adds the times of [`Kind::ALL`], or of the first of them, with the ratio to bare redb's.
    pub(crate) fn of_times(what: impl Into<String>, samples: &[Sample]) -> Self {
        let figure = |(kind, sample): (Kind, &Sample)| Figure::new(kind.name(), Unit::Time, sample);
        let mut figures = Kind::ALL.into_iter().zip(samples).map(figure);
        let ours = figures.next().expect("lockmgr is always measured");
        let row = Self::new(what, ours).with(figures);
        row.ratio(ratio(&samples[0], &samples[1]))
    }

    pub(crate) fn skipped(what: impl Into<String>, target: &str, why: &str) -> Self {
        Self {
            what: what.into(),
            lockmgr: None,
            peers: Vec::new(),
            ratio: None,
            target: target.to_owned(),
            verdict: Verdict::Skipped(why.to_owned()),
            note: String::new(),
        }
    }

    pub(crate) fn with(mut self, figures: impl IntoIterator<Item = Figure>) -> Self {
        self.peers.extend(figures);
        self
    }

    pub(crate) fn ratio(mut self, ratio: Ratio) -> Self {
        self.ratio = Some(ratio);
        self
    }

    pub(crate) fn target(mut self, target: impl Into<String>, is_met: bool) -> Self {
        self.target = target.into();
        self.verdict = match is_met {
            true => Verdict::Met,
            false => Verdict::Missed,
        };
        self
    }

    /// Sets a target for the ratio to bare redb's.
    pub(crate) fn at_most(self, most: f64) -> Self {
        let is_met = self.ratio.is_some_and(|ratio| ratio.median <= most);
        self.target(format!("≤ {most} × bare redb"), is_met)
    }

    pub(crate) fn at_least(self, least: f64) -> Self {
        let is_met = self.ratio.is_some_and(|ratio| ratio.median >= least);
        self.target(format!("≥ {least} × bare redb"), is_met)
    }

    /// Adds one more condition to the target.
    pub(crate) fn and(self, target: &str, is_met: bool) -> Self {
        let was_met = self.verdict == Verdict::Met;
        let target = format!("{}; {target}", self.target);
        self.target(target, was_met && is_met)
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn line(&self) -> String {
        let ours = self.lockmgr.as_ref().map(Figure::text).unwrap_or_default();
        let peer = |figure: &Figure| format!("{} {}", figure.of, figure.text());
        let peers: Vec<String> = self.peers.iter().map(peer).collect();
        let ratio = self.ratio.map(|ratio| {
            let Ratio { median, p25, p75 } = ratio;
            let (median, p25, p75) = (plain(median), plain(p25), plain(p75));
            format!("{median} ({p25} – {p75})")
        });
        let verdict = match &self.verdict {
            Verdict::Met => "yes",
            Verdict::Missed => "**no**",
            Verdict::Shown => "",
            Verdict::Skipped(why) => &format!("skipped: {why}"),
        };
        let mut what = self.what.clone();
        if !self.note.is_empty() {
            what = format!("{what} ({})", self.note);
        }
        let cells = [
            &what,
            &ours,
            &peers.join("<br>"),
            &ratio.unwrap_or_default(),
            &self.target,
            verdict,
        ];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |", cells.join(" | "))
    }
}

/// Formats with two digits after the point, or with two significant digits if that shows more.
fn plain(value: f64) -> String {
    let digits = match value {
        _ if value > 0.0 && value < 0.1 => 1 - value.log10().floor() as i32,
        _ => 2,
    };
    format!("{value:.*}", digits as usize)
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    charts: Vec<Chart>,
}

impl Report {
    pub(crate) fn push(&mut self, row: Row) {
        eprintln!("         {}", row.line());
        self.rows.push(row);
    }

    pub(crate) fn plot(&mut self, chart: Chart) {
        self.charts.push(chart);
    }

    pub(crate) fn markdown(&self, machine: &Machine) -> String {
        let mut text = String::new();
        let count = |wanted: &dyn Fn(&Verdict) -> bool| {
            self.rows.iter().filter(|row| wanted(&row.verdict)).count()
        };
        let _ = write!(
            text,
            "# lockmgr beside its peers\n\n{machine}\n\
             Times are medians, with quartiles in brackets. A ratio is the median of all rounds' \
             ratios, with the quartiles of ten blocks of rounds, or of the rounds where there \
             are fewer; the README says who took turns within each round. Targets met: {}, \
             missed: {}, skipped: {}.\n\n\
             | what | lockmgr | peers | ratio | target | met |\n|---|---|---|---|---|---|\n",
            count(&|verdict| *verdict == Verdict::Met),
            count(&|verdict| *verdict == Verdict::Missed),
            count(&|verdict| matches!(verdict, Verdict::Skipped(_))),
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.line());
        }
        text
    }

    /// Writes the table, the figures and the plots into this directory.
    pub(crate) fn save(&self, machine: &Machine, dir: &Path) -> Result<()> {
        #[derive(Serialize)]
        struct Document<'a> {
            machine: &'a Machine,
            rows: &'a [Row],
            charts: &'a [Chart],
        }
        let document = Document {
            machine,
            rows: &self.rows,
            charts: &self.charts,
        };
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        write("table.md", self.markdown(machine))?;
        write(
            "figures.json",
            serde_json::to_string_pretty(&document)? + "\n",
        )?;
        for chart in &self.charts {
            write(&format!("{}.svg", chart.file), chart.svg())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ratio_keeps_two_digits() {
        assert_eq!(plain(1.274), "1.27");
        assert_eq!(plain(0.104), "0.10");
        assert_eq!(plain(0.0456), "0.046");
        assert_eq!(plain(0.002611), "0.0026");
        assert_eq!(plain(0.0), "0.00");
        assert_eq!(plain(f64::NAN), "NaN");
    }
}
