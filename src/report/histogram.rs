//! Lengths of rows as a picture: bars of one width, in the style of the loss curves.

use super::plot::{AXIS, Area, AreaError, CURVE, GRID, font, legend, picture, px};
use crate::error::Result;
use plotters::prelude::*;

/// The colours of several distributions: the curve's blue, and matplotlib's orange and green beside it.
const COLORS: [RGBColor; 3] = [CURVE, RGBColor(0xff, 0x7f, 0x0e), RGBColor(0x2c, 0xa0, 0x2c)];

/// The bars of a distribution: its name, and (first length, last length, how many) from the left to the right.
pub type Bars<'a> = (&'a str, Vec<(usize, usize, usize)>);

/// A PNG of up to three distributions, one over the other, each in percent of its rows.
pub fn png(title: &str, x_label: &str, distributions: &[Bars]) -> Result<Vec<u8>> {
    picture(|area| chart(area, title, x_label, distributions))
}

fn chart<'a>(area: &Area<'a>, title: &str, x_label: &str, distributions: &[Bars]) -> Result<(), AreaError<'a>> {
    let bars = || distributions.iter().flat_map(|(_, bars)| bars);
    let (first, last) = (bars().map(|bar| bar.0).min().unwrap_or(0), bars().map(|bar| bar.1).max().unwrap_or(0));
    let shares: Vec<Vec<f64>> = distributions.iter().map(|(_, bars)| percents(bars)).collect();
    let most = shares.iter().flatten().copied().fold(0.0, f64::max).max(1.0);
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, font(22))
        .margin(px(14))
        .margin_right(px(26))
        .x_label_area_size(px(46))
        .y_label_area_size(px(66))
        .build_cartesian_2d(first as f64..(last + 1) as f64, 0.0..most * 1.05)?;
    chart
        .configure_mesh()
        .x_desc(x_label)
        .y_desc("% of the rows")
        .x_labels(10)
        .y_labels(8)
        .x_label_formatter(&|length| format!("{length:.0}"))
        .y_label_formatter(&|share| format!("{share:.1}"))
        .label_style(font(15))
        .axis_desc_style(font(17))
        .axis_style(AXIS)
        .bold_line_style(GRID.stroke_width(px(1)))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (((name, bars), shares), color) in distributions.iter().zip(&shares).zip(COLORS) {
        // The later ones are seen through.
        let style = color.mix(if color == CURVE { 1.0 } else { 0.5 }).filled();
        let bar = |(&(from, to, _), share): (&(usize, usize, usize), &f64)| {
            Rectangle::new([(from as f64, 0.0), ((to + 1) as f64, *share)], style)
        };
        let sample =
            move |(x, y)| Rectangle::new([(x, y - px(4) as i32), (x + px(26) as i32, y + px(4) as i32)], style);
        chart.draw_series(bars.iter().zip(shares).map(bar))?.label(*name).legend(sample);
    }
    legend(&mut chart)?;
    area.present()
}

/// How many of all, in percent.
fn percents(bars: &[(usize, usize, usize)]) -> Vec<f64> {
    let all: usize = bars.iter().map(|bar| bar.2).sum();
    bars.iter().map(|bar| 100.0 * bar.2 as f64 / all.max(1) as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixels of a colour, at full strength.
    fn pixels(file: &[u8], color: RGBColor) -> usize {
        let mut reader = ::png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size()];
        reader.next_frame(&mut rgb).unwrap();
        rgb.chunks(3).filter(|p| p == &[color.0, color.1, color.2]).count()
    }

    #[test]
    fn bars_are_as_high_as_their_shares() {
        let blue = |distributions: &[Bars]| pixels(&png("t", "tokens", distributions).unwrap(), CURVE);
        let legend = blue(&[("none", vec![])]);
        let one = blue(&[("one", vec![(5, 5, 9)])]) - legend;
        let half = blue(&[("half", vec![(4, 4, 1), (5, 5, 1), (6, 6, 0), (7, 7, 0)])]) - legend;
        assert!(one > 100_000, "a single length fills the picture: {one}");
        let ratio = one as f64 / half as f64;
        assert!((1.9..2.1).contains(&ratio), "two of four bars of the full height: {ratio}");
        let two = blue(&[("a", vec![(5, 5, 9)]), ("b", vec![(5, 5, 9)])]);
        assert!(two < one / 2, "another distribution lies over it: {two}");
    }
}
