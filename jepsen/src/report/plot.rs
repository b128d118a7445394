//! Latency, throughput and a timeline, with the faults as bands behind them.

use std::collections::BTreeSet;
use std::ops::Range;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::history::{Event, History, Kind, Operation};

const SIZE: (u32, u32) = (1_000, 320);
/// More points are thinned out evenly.
const POINTS_MAX: usize = 4_000;

/// Below it nothing is told apart.
const LATENCY_MS_MIN: f64 = 0.01;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Plotted = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// All plots with their titles.
///
/// # Errors
/// If one cannot be drawn.
pub(super) fn all(history: &History) -> anyhow::Result<Vec<(&'static str, String)>> {
    let run = Run::new(history);
    let drawn = |title, draw: &dyn Fn(&mut String) -> anyhow::Result<()>| {
        let mut svg = String::new();
        draw(&mut svg)?;
        anyhow::Ok((title, svg))
    };
    Ok(vec![
        drawn("Latency (ms)", &|svg| run.latency(svg))?,
        drawn("Operations per second", &|svg| run.throughput(svg))?,
        drawn("Timeline: what did not succeed, by node", &|svg| {
            run.timeline(svg)
        })?,
    ])
}

/// A history in seconds.
struct Run<'a> {
    operations: Vec<Operation<'a>>,
    begin: u64,
    seconds: f64,
    /// Name, start and end of each fault.
    bands: Vec<(String, f64, f64)>,
}

impl<'a> Run<'a> {
    fn new(history: &'a History) -> Run<'a> {
        let begin = history.events().first().map_or(0, |event| event.time);
        let end = history.events().last().map_or(0, |event| event.time);
        let since = |time: u64| time.saturating_sub(begin) as f64 / 1e9;
        let mut run = Run {
            operations: history.operations(),
            begin,
            seconds: since(end).max(1.0),
            bands: Vec::new(),
        };
        let mut open: Vec<&Event> = Vec::new();
        for fault in history.faults() {
            if fault.more.phase.as_deref() != Some("end") {
                open.push(fault);
            } else if let Some(at) = open.iter().rposition(|start| start.f == fault.f) {
                let start = open.remove(at);
                run.bands
                    .push((fault.f.clone(), since(start.time), since(fault.time)));
            }
        }
        run.bands.extend(
            open.into_iter()
                .map(|start| (start.f.clone(), since(start.time), since(end))),
        );
        run
    }

    fn since(&self, time: u64) -> f64 {
        time.saturating_sub(self.begin) as f64 / 1e9
    }

    fn thinned(&self) -> impl Iterator<Item = &Operation<'a>> {
        self.operations
            .iter()
            .step_by(self.operations.len() / POINTS_MAX + 1)
    }

    fn latency(&self, svg: &mut String) -> anyhow::Result<()> {
        let points: Vec<(f64, f64, Kind)> = self
            .thinned()
            .filter_map(|operation| {
                let ms = operation.end?.time.saturating_sub(operation.invoke.time) as f64 / 1e6;
                let at = self.since(operation.invoke.time);
                Some((at, ms.max(LATENCY_MS_MIN).log10(), operation.kind()))
            })
            .collect();
        let low = LATENCY_MS_MIN.log10();
        let high = points.iter().map(|(_, ms, _)| *ms).fold(2.0, f64::max);
        let text = |power: &f64| format!("{:.2}", 10_f64.powf(*power));
        self.framed(svg, low..high, &text, |chart| {
            chart.draw_series(self.band_shapes(low, high))?;
            let dot = |(at, ms, kind): &(f64, f64, Kind)| {
                Circle::new((*at, *ms), 1, colour(*kind).filled())
            };
            chart.draw_series(points.iter().map(dot)).map(|_| ())
        })
    }

    fn throughput(&self, svg: &mut String) -> anyhow::Result<()> {
        // Runs last minutes.
        let seconds = self.seconds.ceil() as usize + 1;
        let lines = [Kind::Ok, Kind::Fail, Kind::Info].map(|kind| {
            let mut counts = vec![0.0; seconds];
            let ended = self
                .operations
                .iter()
                .filter(|operation| operation.kind() == kind);
            for end in ended.filter_map(|operation| operation.end) {
                counts[self.since(end.time) as usize] += 1.0;
            }
            (kind, counts)
        });
        let counts = lines.iter().flat_map(|(_, counts)| counts);
        let high = counts.copied().fold(1.0, f64::max);
        self.framed(svg, 0.0..high, &|count| format!("{count:.0}"), |chart| {
            chart.draw_series(self.band_shapes(0.0, high))?;
            for (kind, counts) in &lines {
                let points = counts.iter().zip(0_u32..);
                let points = points.map(|(count, second)| (f64::from(second), *count));
                chart.draw_series(LineSeries::new(points, colour(*kind)))?;
            }
            Ok(())
        })
    }

    /// A lane for each fault and each node.
    fn timeline(&self, svg: &mut String) -> anyhow::Result<()> {
        let faults: BTreeSet<&str> = self.bands.iter().map(|(name, ..)| name.as_str()).collect();
        let nodes = self
            .operations
            .iter()
            .filter_map(|operation| operation.invoke.node.as_deref());
        let nodes: BTreeSet<&str> = nodes.collect();
        let lanes: Vec<&str> = faults.into_iter().chain(nodes).collect();
        let lane = |name: &str| {
            let place = lanes.iter().position(|other| *other == name);
            place.unwrap_or_default() as f64
        };
        let high = lanes.len().max(1) as f64;
        self.framed(svg, 0.0..high, &|_| String::new(), |chart| {
            for (name, from, to) in &self.bands {
                let (low, high) = (lane(name) + 0.1, lane(name) + 0.9);
                let band = Rectangle::new([(*from, low), (*to, high)], RED.mix(0.4).filled());
                chart.draw_series([band])?;
            }
            let missed = self.thinned().filter(|operation| !operation.is_ok());
            chart.draw_series(missed.map(|operation| {
                let node = operation.invoke.node.as_deref().unwrap_or_default();
                let place = (self.since(operation.invoke.time), lane(node) + 0.5);
                Circle::new(place, 2, colour(operation.kind()).filled())
            }))?;
            let name = |name: &&str| {
                Text::new(
                    (*name).to_owned(),
                    (0.0, lane(name) + 0.6),
                    ("sans-serif", 13),
                )
            };
            chart.draw_series(lanes.iter().map(name)).map(|_| ())
        })
    }

    /// A plot over the seconds of the run; `text` says what a height means.
    fn framed(
        &self,
        svg: &mut String,
        heights: Range<f64>,
        text: &dyn Fn(&f64) -> String,
        draw: impl FnOnce(&mut Chart<'_, '_>) -> Plotted,
    ) -> anyhow::Result<()> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..self.seconds, heights)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_mesh()
            .x_desc("seconds")
            .y_label_formatter(&text)
            .draw()?;
        draw(&mut chart)?;
        Ok(root.present()?)
    }

    /// The faults, from the bottom of a plot to its top.
    fn band_shapes(&self, low: f64, high: f64) -> impl Iterator<Item = Rectangle<(f64, f64)>> {
        self.bands.iter().map(move |(_, from, to)| {
            Rectangle::new([(*from, low), (*to, high)], RED.mix(0.12).filled())
        })
    }
}

fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Ok => RGBColor(6, 114, 15),
        Kind::Fail => RGBColor(200, 120, 0),
        Kind::Invoke | Kind::Info | Kind::Event | Kind::Final => RGBColor(176, 0, 32),
    }
}
