//! `training_loss.png`, `training_eval_loss.png` and, where couplets are written, `training_eval_couplet_pass.png`: the raw
//! curve, pale, and a smoothed one over it.
//!
//! Drawn in memory at twice the size and averaged down, which is what makes plotters' lines smooth; no font of the system is needed.

use crate::{
    error::{Error, Result},
    fs::{fault, write_atomic},
    trainer::event::{Event, Observer},
};
use plotters::{
    coord::CoordTranslate,
    prelude::*,
    style::{FontStyle, register_font},
};
use std::{
    fmt::Display,
    ops::Range,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Width and height of the picture in pixels.
const SIZE: (usize, usize) = (960, 600);
/// Pixels drawn per pixel kept, in each direction.
const OVERSAMPLE: usize = 2;
/// DejaVu Sans, printable ASCII only; its licence lies beside it.
const FONT: &[u8] = include_bytes!("font/DejaVuSans-ascii.ttf");
const FONT_NAME: &str = "DejaVu Sans";
/// LlamaFactory's colour of both curves, `#1f77b4`.
pub(super) const CURVE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const TEXT: RGBColor = RGBColor(0x30, 0x30, 0x30);
pub(super) const AXIS: RGBColor = RGBColor(0x80, 0x80, 0x80);
pub(super) const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

/// Collects losses and draws them, at every evaluation and at the end.
#[derive(Debug)]
pub struct LossPlot {
    output_dir: PathBuf,
    train: Vec<(usize, f64)>,
    eval: Vec<(usize, f64)>,
    /// Shares of labels that are the likeliest token.
    accuracy: Vec<(usize, f64)>,
    /// Shares of written couplets that pass.
    pass: Vec<(usize, f64)>,
}

impl LossPlot {
    /// Goes on after `history`, of which nothing is drawn again before the next evaluation.
    pub fn resume(output_dir: &Path, history: &[Event]) -> Self {
        let mut plot =
            Self { output_dir: output_dir.to_owned(), train: vec![], eval: vec![], accuracy: vec![], pass: vec![] };
        history.iter().for_each(|event| plot.note(event));
        plot
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Logged(e) => self.train.push((e.step, e.loss)),
            Event::Evaluated(e) => {
                // The evaluation after training repeats the last one during it.
                for (points, value) in [
                    (&mut self.eval, Some(e.loss)),
                    (&mut self.accuracy, e.accuracy),
                    (&mut self.pass, e.couplet_pass()),
                ] {
                    points.retain(|&(step, _)| step != e.step);
                    points.extend(value.map(|value| (e.step, value)));
                }
            }
            _ => {}
        }
    }

    fn draw(&self) -> Result<()> {
        fault::phase("plot");
        for (file, title, y_label, points) in [
            ("training_loss.png", "Training loss", "loss", &self.train),
            ("training_eval_loss.png", "Held-out loss", "eval_loss", &self.eval),
            ("training_eval_accuracy.png", "Held-out accuracy", "eval_accuracy", &self.accuracy),
            ("training_eval_couplet_pass.png", "Couplets that pass", "eval_couplet_pass", &self.pass),
        ] {
            if points.iter().any(|(_, loss)| loss.is_finite()) {
                write_atomic(&self.output_dir.join(file), &png(title, y_label, points)?)?;
            }
        }
        Ok(())
    }
}

impl Observer for LossPlot {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        self.note(event);
        match event {
            Event::Evaluated(_) => {
                // A picture is not worth a run: it is drawn again at the end, and there an error counts.
                let _ = self.draw();
                Ok(())
            }
            Event::Finished(_) => self.draw(),
            _ => Ok(()),
        }
    }
}

/// Exponential moving average of LlamaFactory's loss plots: the weight of the past is 1.8·(sigmoid(0.05 n) − 0.5) for n values,
/// so a long curve is smoothed more than a short one.
pub fn smooth(values: &[f64]) -> Vec<f64> {
    let weight = 1.8 * (1.0 / (1.0 + (-0.05 * values.len() as f64).exp()) - 0.5);
    let mut last = values.first().copied().unwrap_or(0.0);
    let average = |&value: &f64| {
        last = weight * last + (1.0 - weight) * value;
        last
    };
    values.iter().map(average).collect()
}

/// A PNG of `points` (step, loss). Losses that are not finite are left out; without any the axes stay empty.
pub fn png(title: &str, y_label: &str, points: &[(usize, f64)]) -> Result<Vec<u8>> {
    let points: Vec<(u64, f64)> =
        points.iter().filter(|(_, loss)| loss.is_finite()).map(|&(step, loss)| (step as u64, loss)).collect();
    picture(|area| chart(area, title, y_label, &points))
}

/// What is drawn on.
pub(super) type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;
/// What may go wrong with it.
pub(super) type AreaError<'a> = DrawingAreaErrorKind<<BitMapBackend<'a> as DrawingBackend>::ErrorType>;

/// A PNG of what `draw` draws.
pub(super) fn picture(draw: impl for<'a> Fn(&Area<'a>) -> Result<(), AreaError<'a>>) -> Result<Vec<u8>> {
    register()?;
    let (width, height) = (SIZE.0 * OVERSAMPLE, SIZE.1 * OVERSAMPLE);
    let mut pixels = vec![0; width * height * 3];
    let area = BitMapBackend::with_buffer(&mut pixels, (width as u32, height as u32)).into_drawing_area();
    draw(&area).map_err(failed)?;
    drop(area);
    encode(&shrink(&pixels, width)).map_err(failed)
}

/// Pixels of the kept picture as they are drawn.
pub(super) fn px(n: u32) -> u32 {
    n * OVERSAMPLE as u32
}

/// Words of this size.
pub(super) fn font(size: u32) -> TextStyle<'static> {
    (FONT_NAME, px(size)).into_font().color(&TEXT)
}

fn chart<'a>(area: &Area<'a>, title: &str, y_label: &str, points: &[(u64, f64)]) -> Result<(), AreaError<'a>> {
    let y_range = y_range(points);
    // As many decimals as tell neighbouring labels apart.
    let decimals = (1.0 - (y_range.end - y_range.start).log10()).clamp(1.0, 8.0) as usize;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, font(22))
        .margin(px(14))
        .margin_right(px(26))
        .x_label_area_size(px(46))
        .y_label_area_size(px(66))
        .build_cartesian_2d(x_range(points), y_range)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(y_label)
        .x_labels(10)
        .y_labels(8)
        .y_label_formatter(&|loss| format!("{loss:.decimals$}"))
        .label_style(font(15))
        .axis_desc_style(font(17))
        .axis_style(AXIS)
        .bold_line_style(GRID.stroke_width(px(1)))
        .light_line_style(TRANSPARENT)
        .draw()?;

    let losses: Vec<f64> = points.iter().map(|&(_, loss)| loss).collect();
    let smoothed: Vec<(u64, f64)> = points.iter().map(|&(step, _)| step).zip(smooth(&losses)).collect();
    for (name, curve, color) in [("original", points, CURVE.mix(0.4)), ("smoothed", &smoothed, CURVE.to_rgba())] {
        let style = color.filled().stroke_width(px(2));
        // A line through one point shows nothing.
        let dots = if curve.len() <= 2 { px(4) } else { 0 };
        let series = LineSeries::new(curve.iter().copied(), style).point_size(dots);
        let sample = move |(x, y)| PathElement::new([(x, y), (x + px(26) as i32, y)], style);
        chart.draw_series(series)?.label(name).legend(sample);
    }
    legend(&mut chart)?;
    area.present()
}

/// Which series is which, in the upper right corner.
pub(super) fn legend<'a, C: CoordTranslate>(
    chart: &mut ChartContext<'a, BitMapBackend<'a>, C>,
) -> Result<(), AreaError<'a>> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(px(10))
        .legend_area_size(px(34))
        .label_font(font(15))
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .draw()
}

/// All steps; a single one gets neighbours, for an axis needs a length.
fn x_range(points: &[(u64, f64)]) -> Range<u64> {
    let steps = || points.iter().map(|&(step, _)| step);
    let (first, last) = (steps().min().unwrap_or(0), steps().max().unwrap_or(1));
    if first < last { first..last } else { first.saturating_sub(1)..last + 1 }
}

/// All losses with a margin of a twentieth, so that no curve runs along the frame.
fn y_range(points: &[(u64, f64)]) -> Range<f64> {
    let losses = || points.iter().map(|&(_, loss)| loss);
    let (low, high) = if points.is_empty() {
        (0.0, 1.0)
    } else {
        (losses().fold(f64::INFINITY, f64::min), losses().fold(f64::NEG_INFINITY, f64::max))
    };
    let margin = ((high - low) / 20.0).max(low.abs().max(high.abs()) * 1e-3).max(1e-6);
    low - margin..high + margin
}

/// Averages squares of `OVERSAMPLE`² pixels. `pixels`: rows of `width` RGB triples.
fn shrink(pixels: &[u8], width: usize) -> Vec<u8> {
    let mut small = Vec::with_capacity(SIZE.0 * SIZE.1 * 3);
    for y in 0..SIZE.1 {
        for x in 0..SIZE.0 {
            for channel in 0..3 {
                let at = |dx, dy| pixels[((y * OVERSAMPLE + dy) * width + x * OVERSAMPLE + dx) * 3 + channel] as usize;
                let square = (0..OVERSAMPLE).flat_map(|dy| (0..OVERSAMPLE).map(move |dx| (dx, dy)));
                let sum: usize = square.map(|(dx, dy)| at(dx, dy)).sum();
                small.push((sum / (OVERSAMPLE * OVERSAMPLE)) as u8);
            }
        }
    }
    small
}

fn encode(rgb: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, SIZE.0 as u32, SIZE.1 as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Best);
    encoder.set_filter(png::FilterType::NoFilter); // flat areas: filters only break up their repetition
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(file)
}

/// Tells plotters the embedded font, once per process.
fn register() -> Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| register_font(FONT_NAME, FontStyle::Normal, FONT).is_ok());
    if *done { Ok(()) } else { Err(failed("the embedded font is damaged")) }
}

fn failed(err: impl Display) -> Error {
    Error::run(format!("cannot draw the picture: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::testing::{evaluated, finished, logged},
        trainer::event::{EvalPhase, Evaluated, Written},
    };

    fn decoded(file: &[u8]) -> Vec<u8> {
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size()];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!((info.width as usize, info.height as usize), SIZE);
        rgb
    }

    /// How many pixels have the curve's blue, at full strength.
    fn blue(rgb: &[u8]) -> usize {
        rgb.chunks(3).filter(|p| p == &[CURVE.0, CURVE.1, CURVE.2]).count()
    }

    #[test]
    fn smoothing_is_llamafactorys() {
        // Right column: `smooth` of llamafactory/extras/ploting.py, run on these lists.
        for (values, want) in [
            (&[][..], &[][..]),
            (&[3.0], &[3.0]),
            (&[4.0, 2.0], &[4.0, 2.0899250749241842]),
            (&[5.0, 1.0, 3.0, 2.0], &[5.0, 1.3588047806498413, 2.8527828273293743, 2.0764956388254667]),
        ] {
            let got = smooth(values);
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-12, "{values:?}: got {got}, want {want}");
            }
        }
    }

    #[test]
    fn any_number_of_points_gives_a_picture() {
        let falling = |n: usize| (0..n).map(|i| (i * 10, 5.0 / (1.0 + i as f64))).collect::<Vec<_>>();
        let some = blue(&decoded(&png("t", "loss", &falling(50)).unwrap()));
        let none = blue(&decoded(&png("t", "loss", &[]).unwrap()));
        assert!(some > none + 500, "a curve is drawn: {some} blue pixels against {none} of the legend");
        for (points, why) in [
            (vec![(7, 1.5)], "one point is a dot"),
            (vec![(7, 1.5), (8, 1.5)], "two on a level"),
            (vec![(1, 0.0), (2, 0.0)], "two at zero"),
            (vec![(0, f64::NAN), (3, 2.0), (5, f64::INFINITY)], "numbers that are none are left out"),
            (vec![(1, 1e300), (2, -1e300)], "a wild range"),
            (falling(20_000), "more points than pixels"),
        ] {
            assert!(blue(&decoded(&png("t", "loss", &points).unwrap())) > none, "{why}");
        }
        assert_eq!(blue(&decoded(&png("t", "loss", &[(1, f64::NAN)]).unwrap())), none, "nothing finite, nothing drawn");
    }

    #[test]
    fn curves_are_drawn_at_evaluations_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let exists = |name: &str| dir.path().join(name).exists();
        let mut plot = LossPlot::resume(dir.path(), &[]);
        plot.on_event(&Event::Evaluated(evaluated(0, 10, 5.0, EvalPhase::Before))).unwrap();
        assert!(exists("training_eval_loss.png") && !exists("training_loss.png"));
        plot.on_event(&Event::Logged(logged(5, 10, 4.0))).unwrap();
        assert!(!exists("training_loss.png"), "not at every log line");
        for when in [EvalPhase::During, EvalPhase::Final] {
            plot.on_event(&Event::Evaluated(evaluated(10, 10, 3.0, when))).unwrap();
        }
        assert_eq!(plot.eval, [(0, 5.0), (10, 3.0)], "the final evaluation is no second point");
        std::fs::remove_file(dir.path().join("training_loss.png")).unwrap();
        plot.on_event(&Event::Finished(finished(10, 1.0))).unwrap();
        assert!(exists("training_loss.png") && !exists("training_eval_couplet_pass.png"));
        let written = Some(Written { couplet_pass: Some(0.5), ..Written::default() });
        let with = Evaluated { written, ..evaluated(20, 20, 3.0, EvalPhase::During) };
        plot.on_event(&Event::Evaluated(with)).unwrap();
        assert!(exists("training_eval_couplet_pass.png"));
    }

    #[test]
    fn a_resumed_run_draws_no_old_picture_but_all_old_points() {
        let dir = tempfile::tempdir().unwrap();
        let history: Vec<Event> =
            (1..4).map(|i| Event::Evaluated(evaluated(10 * i, 50, 5.0, EvalPhase::During))).collect();
        let mut plot = LossPlot::resume(dir.path(), &history);
        assert_eq!((plot.eval.len(), std::fs::read_dir(dir.path()).unwrap().count()), (3, 0));
        plot.on_event(&Event::Evaluated(evaluated(40, 50, 3.0, EvalPhase::During))).unwrap();
        assert!(plot.eval.len() == 4 && dir.path().join("training_eval_loss.png").exists());
    }

    #[test]
    fn a_picture_that_cannot_be_written_ends_the_run_only_at_its_end() {
        let mut plot = LossPlot::resume(Path::new("no/such/folder"), &[]);
        plot.on_event(&Event::Evaluated(evaluated(5, 10, 5.0, EvalPhase::During))).unwrap();
        let err = plot.on_event(&Event::Finished(finished(10, 1.0))).unwrap_err();
        assert!(err.to_string().contains("training_eval_loss.png"), "{err}");
    }
}
