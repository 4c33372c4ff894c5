//! Bars of characters, for a terminal.

/// Cells of the longest bar.
const CELLS: f64 = 40.0;

/// A bar of a share of the whole, between 0 and 1: eighths of a cell are shown.
pub(super) fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * CELLS * 8.0).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if let Some(part) = (eighths % 8).checked_sub(1) {
        bar.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][part]);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn bars_are_as_long_as_their_shares() {
        assert_eq!(bar(1.0).chars().count(), 40);
        assert_eq!(bar(7.0), bar(1.0));
        assert_eq!([bar(0.0), bar(-1.0), bar(0.025), bar(0.0375)], ["", "", "█", "█▌"].map(str::to_owned));
    }
}
