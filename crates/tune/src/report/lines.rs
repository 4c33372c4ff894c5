//! Curves over the steps of a run, as SVG.

use std::fmt::Write;

use super::axis::{Axis, shown};
use super::frame::Frame;
use super::style::{COLORS, svg};
use super::text::{escape, number};
use super::thin::{Point, thinned};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;

/// More points than this are thinned: there are no more pixels.
const MOST_POINTS: usize = 700;

/// Up to so many points of a line have a dot each, which tells its value.
const MOST_DOTS: usize = 60;

/// One line of a chart.
pub(super) struct Line {
    /// What a dot says before its value, and what the legend says.
    pub(super) name: String,
    /// Those that are not [`shown`] are left out.
    pub(super) points: Vec<Point>,
    /// Which of the colours; they begin again after the last.
    pub(super) color: usize,
    /// Behind the others, thin and pale, without dots.
    pub(super) faint: bool,
}

/// The chart of some lines; `None` where no point can be shown. `label` is what the picture is said to be to those who do not
/// see it.
pub(super) fn chart(label: &str, lines: &[Line]) -> Option<String> {
    let points = || lines.iter().flat_map(|line| &line.points).filter(|point| shown(point.1));
    let y = Axis::around(points().map(|point| point.1), true)?;
    // All charts of a run begin where it did.
    let x = Axis::around(points().map(|point| point.0).chain([0.0]), false)?;
    let frame = Frame { left: LEFT, right: WIDTH - RIGHT, top: TOP, bottom: HEIGHT - BOTTOM };
    let (across, down) = (|step: f64| frame.across(&x, step), |value: f64| frame.down(&y, value));

    let mut body = frame.rows(&y);
    // A step is a whole number.
    body += &frame.numbers(&x, x.ticks().into_iter().filter(|tick| (tick - tick.round()).abs() < 1e-6));
    let _ = write!(
        body,
        "<path class=\"axis\" d=\"M{LEFT} {0}H{1}\"/><text x=\"{1}\" y=\"{2}\" text-anchor=\"end\">step</text>",
        frame.bottom,
        frame.right,
        HEIGHT - 6.0
    );

    let (faint, strong): (Vec<&Line>, Vec<&Line>) = lines.iter().partition(|line| line.faint);
    for line in faint.into_iter().chain(strong) {
        let points: Vec<Point> = line.points.iter().filter(|point| shown(point.1)).copied().collect();
        let color = line.color % COLORS;
        let faint = if line.faint { " faint" } else { "" };
        let dashed = if line.color >= COLORS { " dashed" } else { "" };
        let mut path = String::new();
        for (index, (step, value)) in thinned(&points, MOST_POINTS).into_iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if index == 0 { 'M' } else { 'L' }, across(step), down(value));
        }
        let _ = write!(body, "<path class=\"line c{color}{faint}{dashed}\" d=\"{path}\"/>");
        if line.faint || points.len() > MOST_DOTS {
            continue;
        }
        for (step, value) in points {
            let _ = write!(
                body,
                "<circle class=\"dot c{color}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.2\"><title>{}, step {}: {}</title></circle>",
                across(step),
                down(value),
                escape(&line.name),
                number(step),
                number(value)
            );
        }
    }
    Some(svg(WIDTH, HEIGHT, label, &body))
}
