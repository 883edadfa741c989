//! Pictures: lines over an axis and groups of bars, as SVG text without script, font or reference to anything outside.
//!
//! ```text
//! title
//! |      o--o line, one colour and one mark each
//! |  o--'          legend at the right
//! +-----------> axis, logarithmic where the numbers span decades
//! ```

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 52.0;
/// Told apart also by those who see no red and green.
const COLOURS: [&str; 9] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c4a1f", "#888888", "#000000"];
/// From this ratio of largest to smallest on, an axis is logarithmic.
const DECADES_FROM: f64 = 40.0;

/// One line: its name and its points, in order of their x.
pub(crate) type Line = (String, Vec<(f64, f64)>);

/// What is written around a picture.
#[derive(Clone, Debug)]
pub(crate) struct Frame<'a> {
    /// Above it.
    pub(crate) title: &'a str,
    /// Under the axis.
    pub(crate) x: &'a str,
    /// Beside the axis.
    pub(crate) y: &'a str,
}

/// A scale from values to pixels.
#[derive(Clone, Copy, Debug)]
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    is_log: bool,
}

impl Scale {
    /// Logarithmic if all values are above zero and span decades, else linear from zero.
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if !low.is_finite() {
            (low, high) = (0.0, 1.0);
        }
        let is_log = low > 0.0 && high / low >= DECADES_FROM;
        let (low, high) =
            if is_log { (low, high) } else { (0.0, if high > 0.0 { high * 1.05 } else { 1.0 }) };
        Self { low, high, from, to, is_log }
    }

    fn at(&self, value: f64) -> f64 {
        let part = if self.is_log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + part * (self.to - self.from)
    }

    /// Where marks stand: powers of ten (and halves of decades if there are few), or about six round steps.
    fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let inside = |factors: &[f64]| -> Vec<f64> {
                let mut ticks = Vec::new();
                let mut decade = 10_f64.powf(self.low.log10().floor());
                while decade <= self.high {
                    ticks.extend(factors.iter().map(|factor| factor * decade));
                    decade *= 10.0;
                }
                ticks.retain(|&tick| tick >= self.low * 0.999 && tick <= self.high * 1.001);
                ticks
            };
            let tens = inside(&[1.0]);
            return if tens.len() < 3 { inside(&[1.0, 2.0, 5.0]) } else { tens };
        }
        let rough = (self.high - self.low) / 6.0;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .iter()
            .map(|m| m * decade)
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let mut ticks = vec![0.0];
        while ticks.len() < 20 && ticks[ticks.len() - 1] + step <= self.high {
            ticks.push(ticks[ticks.len() - 1] + step);
        }
        ticks
    }
}

/// A picture of lines.
pub(crate) fn lines(frame: &Frame<'_>, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points.iter());
    let x = Scale::new(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let y = Scale::new(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut out = open(frame);
    vertical(&mut out, &y);
    for tick in x.ticks() {
        let at = x.at(tick);
        text(&mut out, (at, HEIGHT - BOTTOM + 16.0), "middle", &short(tick));
        // Writing into a String does not fail.
        let _ = write!(out, r##"<path d="M{at:.1} {:.1}v4" stroke="#444"/>"##, HEIGHT - BOTTOM);
    }
    for (number, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let mut path = String::new();
        for (at, point) in points.iter().filter(|point| point.1.is_finite()).enumerate() {
            let (x, y) = (x.at(point.0), y.at(point.1));
            let _ = write!(path, "{}{x:.1} {y:.1}", if at == 0 { "M" } else { "L" });
            let _ = write!(out, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#);
        }
        let dash = if number >= COLOURS.len() { r#" stroke-dasharray="5 3""# } else { "" };
        let _ = write!(out, r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>"#);
        legend(&mut out, number, name);
    }
    close(out)
}

/// A picture of bars in groups: names of the bars, and for each group its name and one value (or none) for each bar.
pub(crate) fn bars(frame: &Frame<'_>, names: &[String], groups: &[(String, Vec<Option<f64>>)]) -> String {
    let values = groups.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    // The length of a bar is its value: always linear, from zero.
    let y = Scale { is_log: false, low: 0.0, ..Scale::new(values.chain([0.0]), HEIGHT - BOTTOM, TOP) };
    let mut out = open(frame);
    vertical(&mut out, &y);
    let count = |length: usize| f64::from(u32::try_from(length.max(1)).unwrap_or(u32::MAX));
    let group_width = (WIDTH - RIGHT - LEFT) / count(groups.len());
    let width = group_width * 0.85 / count(names.len());
    let mut left = LEFT + group_width * 0.075;
    for (group, values) in groups {
        text(&mut out, (left + group_width * 0.425, HEIGHT - BOTTOM + 16.0), "middle", group);
        let mut at = left;
        for (number, value) in values.iter().enumerate() {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                let top = y.at(value);
                let _ = write!(
                    out,
                    r#"<rect x="{at:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" fill="{}"><title>{}</title></rect>"#,
                    width * 0.92,
                    HEIGHT - BOTTOM - top,
                    COLOURS[number % COLOURS.len()],
                    escape(&format!("{}: {}", names.get(number).map_or("", String::as_str), short(value)))
                );
            }
            at += width;
        }
        left += group_width;
    }
    for (number, name) in names.iter().enumerate() {
        legend(&mut out, number, name);
    }
    close(out)
}

fn open(frame: &Frame<'_>) -> String {
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
        escape(frame.title)
    );
    let _ = write!(out, r#"<text x="{LEFT}" y="18" font-weight="bold">{}</text>"#, escape(frame.title));
    text(&mut out, ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14.0), "middle", frame.x);
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = write!(
        out,
        r#"<text transform="translate(14 {middle:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
        escape(frame.y)
    );
    out
}

fn close(mut out: String) -> String {
    out.push_str("</svg>");
    out
}

/// The axis at the left with its marks and faint lines.
fn vertical(out: &mut String, y: &Scale) {
    let right = WIDTH - RIGHT;
    for tick in y.ticks() {
        let at = y.at(tick);
        let _ = write!(out, r##"<path d="M{LEFT} {at:.1}H{right}" stroke="#ddd"/>"##);
        text(out, (LEFT - 6.0, at + 4.0), "end", &short(tick));
    }
    let bottom = HEIGHT - BOTTOM;
    let _ = write!(out, r##"<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#444"/>"##);
}

fn legend(out: &mut String, number: usize, name: &str) {
    let row = f64::from(u32::try_from(number).unwrap_or(0));
    let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 6.0 + row * 17.0);
    let colour = COLOURS[number % COLOURS.len()];
    let _ = write!(out, r#"<rect x="{x}" y="{:.1}" width="10" height="10" fill="{colour}"/>"#, y - 9.0);
    text(out, (x + 15.0, y), "start", name);
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = write!(out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(words));
}

/// A number in few signs: 12 M, 3.4 k, 250, 0.07.
pub(crate) fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        size if size == 0.0 || size >= 99.5 => 0,
        size if size >= 9.95 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// Text that means itself in HTML and in SVG, also within an attribute.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame<'static> = Frame { title: "a < b", x: "x", y: "y" };

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.066, "0.066"),
            (4.7, "4.7"),
            (250.0, "250"),
            (9_999.0, "9999"),
            (65_432.0, "65.4 k"),
            (10_000_000.0, "10 M"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn an_axis_over_decades_is_logarithmic_and_its_marks_are_round() {
        let scale = Scale::new([10_000.0, 10_000_000.0].into_iter(), 0.0, 300.0);
        assert_eq!(scale.ticks().len(), 4, "{:?}", scale.ticks());
        assert!((scale.at(100_000.0) - 100.0).abs() < 0.01 && (scale.at(10_000.0)).abs() < 0.01);
        let scale = Scale::new([3.0, 97.0].into_iter(), 0.0, 300.0);
        assert!(!scale.is_log && scale.at(0.0).abs() < 0.01);
        assert_eq!(
            scale.ticks().iter().map(|tick| short(*tick)).collect::<Vec<_>>(),
            ["0", "20", "40", "60", "80", "100"]
        );
    }

    #[test]
    fn a_line_has_a_mark_for_each_point_and_goes_up_with_its_values() {
        let picture = lines(&FRAME, &[("one & two".into(), vec![(1.0, 10.0), (2.0, 20.0), (3.0, f64::NAN)])]);
        assert_eq!(picture.matches("<circle").count(), 2);
        assert!(picture.contains("a &lt; b") && picture.contains("one &amp; two"));
        let y = |text: &str| -> f64 { text.split('"').next().unwrap().parse().unwrap() };
        let heights: Vec<f64> = picture.split(" cy=\"").skip(1).map(y).collect();
        assert!(heights[1] < heights[0], "{heights:?}");
    }

    #[test]
    fn a_bar_is_as_long_as_its_value_and_a_missing_one_leaves_a_gap() {
        let groups = [("g".to_owned(), vec![Some(1.0), None, Some(1000.0)])];
        let picture = bars(&FRAME, &["a".into(), "b".into(), "c".into()], &groups);
        let height = |text: &str| -> f64 { text.split('"').next().unwrap().parse().unwrap() };
        let heights: Vec<f64> = picture
            .split("<rect ")
            .filter(|rect| rect.contains("<title>"))
            .map(|rect| height(rect.split(" height=\"").nth(1).unwrap()))
            .collect();
        assert_eq!(heights.len(), 2);
        assert!(heights[0] < 1.0 && heights[1] > 200.0, "{heights:?}");
    }

    #[test]
    fn nothing_to_show_is_a_picture_still() {
        assert!(lines(&FRAME, &[]).ends_with("</svg>"));
        assert!(bars(&FRAME, &[], &[]).ends_with("</svg>"));
    }
}
