//! Where the data of a picture are: from values to places in it, and its axes.

use std::fmt::Write;

use super::axis::Axis;
use super::text::number;

/// The edges of the data within a picture.
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Frame {
    /// Where a value lies between left and right.
    pub(super) fn across(&self, axis: &Axis, value: f64) -> f64 {
        self.left + axis.place(value) * (self.right - self.left)
    }

    /// Where a value lies between bottom and top.
    pub(super) fn down(&self, axis: &Axis, value: f64) -> f64 {
        self.bottom - axis.place(value) * (self.bottom - self.top)
    }

    /// A line across for each tick, with its number on the left.
    pub(super) fn rows(&self, axis: &Axis) -> String {
        let mut body = String::new();
        for tick in axis.ticks() {
            let (at, text) = (self.down(axis, tick), number(tick));
            let _ = write!(
                body,
                "<path class=\"grid\" d=\"M{} {at:.1}H{}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                self.left,
                self.right,
                self.left - 8.0,
                at + 4.0
            );
        }
        body
    }

    /// A line down for each tick.
    pub(super) fn columns(&self, axis: &Axis) -> String {
        let line = |tick| format!("<path class=\"grid\" d=\"{}\"/>", self.column(axis, tick));
        axis.ticks().into_iter().map(line).collect()
    }

    /// The path of a line down at a value.
    pub(super) fn column(&self, axis: &Axis, value: f64) -> String {
        format!("M{:.1} {}V{:.1}", self.across(axis, value), self.top, self.bottom)
    }

    /// Numbers below.
    pub(super) fn numbers(&self, axis: &Axis, ticks: impl IntoIterator<Item = f64>) -> String {
        let mut body = String::new();
        for tick in ticks {
            let (at, below, text) = (self.across(axis, tick), self.bottom + 18.0, number(tick));
            let _ = write!(body, "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{text}</text>");
        }
        body
    }
}
