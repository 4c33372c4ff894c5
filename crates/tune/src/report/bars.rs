//! Bars that lie: a group for each row (a language, a task), a bar in it for each column (a model), as SVG.

use std::fmt::Write;

use super::axis::{Axis, shown};
use super::frame::Frame;
use super::style::{COLORS, OF_PICTURES, svg};
use super::text::{escape, number, shorten};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 70.0;
const BAR: f64 = 15.0;
const GAP: f64 = 9.0;
const BOTTOM: f64 = 26.0;

/// From one name of a legend to the next.
const LEGEND_LINE: f64 = 18.0;
const LEGEND_CHARS: usize = 70;

/// Characters of a name that have room.
const NAME_CHARS: usize = 28;

/// What bars show.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// What the picture is, in words.
    pub label: String,
    /// The bars of each group, in order.
    pub columns: Vec<String>,
    /// The groups: their names, and for each column the value, where there is one.
    pub rows: Vec<(String, Vec<Option<f64>>)>,
}

impl Bars {
    /// A file of its own; `None` where there is nothing to show. Panics on a row that is not as long as the columns.
    pub fn document(&self) -> Option<String> {
        let body = self.body()?;
        // On a page the legend is outside of the picture.
        let mut legend = String::new();
        let named = if self.columns.len() > 1 { &self.columns[..] } else { &[] };
        for (column, name) in named.iter().enumerate() {
            let (color, top) = (column % COLORS, GAP + column as f64 * LEGEND_LINE);
            let _ = write!(
                legend,
                "<rect class=\"bar c{color}\" x=\"{LEFT}\" y=\"{top}\" width=\"10\" height=\"10\" rx=\"1.5\"/>\
                 <text class=\"name\" x=\"{}\" y=\"{}\">{}</text>",
                LEFT + 17.0,
                top + 9.5,
                escape(&shorten(name, LEGEND_CHARS))
            );
        }
        let below = if named.is_empty() { 0.0 } else { named.len() as f64 * LEGEND_LINE + GAP };
        let height = self.height() + below;
        Some(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<title>{}</title>\n<style>\n{OF_PICTURES}</style>\n\
             <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>{legend}\n\
             <g transform=\"translate(0 {below})\">{body}</g>\n</svg>\n",
            escape(&self.label)
        ))
    }

    /// For a page.
    pub(super) fn picture(&self) -> Option<String> {
        Some(svg(WIDTH, self.height(), &self.label, &self.body()?))
    }

    fn body(&self) -> Option<String> {
        for (name, values) in &self.rows {
            assert_eq!(values.len(), self.columns.len(), "values of {name} and columns");
        }
        let values = || self.rows.iter().flat_map(|(_, values)| values.iter().flatten()).copied();
        values().find(|value| shown(*value))?;
        // A bar begins at 0.
        let axis = Axis::around(values().chain([0.0]), true)?;
        let frame = Frame { left: LEFT, right: WIDTH - RIGHT, top: GAP, bottom: self.height() - BOTTOM };
        let group = self.group();

        let mut body = frame.columns(&axis) + &frame.numbers(&axis, axis.ticks());
        for (index, (name, values)) in self.rows.iter().enumerate() {
            let top = GAP + index as f64 * group;
            let _ = write!(
                body,
                "<text class=\"name\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}<title>{}</title></text>",
                LEFT - 10.0,
                top + (group - GAP) / 2.0 + 4.0,
                escape(&shorten(name, NAME_CHARS)),
                escape(name)
            );
            for (column, value) in values.iter().enumerate() {
                let Some(value) = value.filter(|value| shown(*value)) else { continue };
                let [from, to] = [value.min(0.0), value.max(0.0)].map(|value| frame.across(&axis, value));
                let top = top + column as f64 * BAR;
                let _ = write!(
                    body,
                    "<rect class=\"bar c{}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{}\" rx=\"1.5\">\
                     <title>{}, {}: {}</title></rect><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    column % COLORS,
                    (to - from).max(0.5),
                    BAR - 2.0,
                    escape(name),
                    escape(&self.columns[column]),
                    number(value),
                    to + 6.0,
                    top + BAR - 4.0,
                    number(value)
                );
            }
        }
        let _ = write!(body, "<path class=\"axis\" d=\"{}\"/>", frame.column(&axis, 0.0));
        Some(body)
    }

    /// Height of a group and the gap below it.
    fn group(&self) -> f64 {
        self.columns.len() as f64 * BAR + GAP
    }

    fn height(&self) -> f64 {
        GAP + self.rows.len() as f64 * self.group() + BOTTOM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(rows: Vec<(String, Vec<Option<f64>>)>) -> Bars {
        Bars { label: "by <language>".into(), columns: vec!["one".into(), "two & more".into()], rows }
    }

    #[test]
    fn a_document_has_a_bar_for_each_value() {
        let rows = vec![("en".into(), vec![Some(80.0), None]), ("tr & <i>".into(), vec![Some(-10.0), Some(f64::NAN)])];
        let document = bars(rows).document().unwrap();
        assert!(document.starts_with("<svg xmlns=") && document.ends_with("</svg>\n"), "{document}");
        // And one for each name of the legend.
        assert_eq!(document.matches("class=\"bar ").count(), 2 + 2);
        assert!(document.contains("<title>by &lt;language&gt;</title>") && document.contains(">two &amp; more</text>"));
        assert!(document.contains(">−10</text>") && !document.contains("NaN") && !document.contains("<i>"));
    }

    #[test]
    fn a_bar_begins_at_zero_and_is_as_long_as_its_value() {
        let picture = bars(vec![("en".into(), vec![Some(100.0), Some(-50.0)])]).picture().unwrap();
        // 150 are 500 wide, from −50 at 190; 0 lies at 356.7.
        assert!(picture.contains("x=\"356.7\" y=\"9.0\" width=\"333.3\""), "{picture}");
        assert!(picture.contains("x=\"190.0\" y=\"24.0\" width=\"166.7\""), "{picture}");
    }

    #[test]
    fn a_single_column_needs_no_legend() {
        let bars = Bars { columns: vec!["one".into()], ..bars(vec![("en".into(), vec![Some(1.0)])]) };
        assert_eq!(bars.document().unwrap().matches("class=\"bar ").count(), 1);
    }

    #[test]
    fn nothing_to_show_is_no_picture() {
        assert_eq!(bars(vec![]).document(), None);
        assert_eq!(bars(vec![("en".into(), vec![None, Some(f64::INFINITY)])]).document(), None);
    }
}
