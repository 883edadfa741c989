//! One run of a cell as numbers: what the table, the pictures and the raw results are made of.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Value as Json, json};

use crate::load::Measured;

/// One run of one cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Requests answered per second.
    pub(crate) per_second: f64,
    /// Milliseconds of a pipeline, or of one request of an open loop.
    pub(crate) p50_ms: f64,
    /// The same.
    pub(crate) p99_ms: f64,
    /// The same.
    pub(crate) p999_ms: f64,
    /// CPU seconds of all server processes per 100,000 requests.
    pub(crate) cpu_per_100k: f64,
}

impl Sample {
    /// Of what was measured, and the CPU seconds that the servers took meanwhile.
    pub(crate) fn new(measured: &Measured, cpu_seconds: f64) -> Self {
        let requests = real(measured.requests);
        Self {
            per_second: requests / measured.elapsed.as_secs_f64(),
            p50_ms: quantile_ms(&measured.latency_us, 0.5),
            p99_ms: quantile_ms(&measured.latency_us, 0.99),
            p999_ms: quantile_ms(&measured.latency_us, 0.999),
            cpu_per_100k: cpu_seconds * 100_000.0 / requests,
        }
    }
}

/// The fields of a raw result: counts as they were, and quantiles.
pub(crate) fn raw(measured: &Measured, cpu_seconds: f64) -> Json {
    let quantiles: BTreeMap<String, f64> = [0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0]
        .into_iter()
        .map(|quantile| (format!("{quantile}"), quantile_ms(&measured.latency_us, quantile)))
        .collect();
    json!({
        "requests": measured.requests,
        "refused": measured.refused,
        "elapsed_s": measured.elapsed.as_secs_f64(),
        "cpu_s": cpu_seconds,
        "latency_ms": quantiles,
    })
}

/// Adds the fields of one object to another.
pub(crate) fn merge(into: &mut Json, fields: Json) {
    if let (Some(into), Json::Object(fields)) = (into.as_object_mut(), fields) {
        into.extend(fields);
    }
}

/// A quantile in milliseconds.
pub(crate) fn quantile_ms(latency_us: &Histogram<u64>, quantile: f64) -> f64 {
    real(latency_us.value_at_quantile(quantile)) / 1000.0
}

/// A count as a real number.
#[expect(clippy::cast_precision_loss, reason = "counts and microseconds are far below 2^52")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

/// The middle one; of an even number the mean of both. Of none it is not a number.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}

/// Median of one field over the runs; `None` without a run.
pub(crate) fn median_of(samples: &[Sample], field: fn(&Sample) -> f64) -> Option<f64> {
    (!samples.is_empty()).then(|| median(samples.iter().map(field).collect()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]).to_bits(), 3.0_f64.to_bits());
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_sample_says_rates_and_costs_per_request() {
        let mut measured =
            Measured { requests: 50_000, elapsed: Duration::from_secs(2), ..Measured::empty() };
        for us in 1..=1000 {
            measured.latency_us.record(us * 10).unwrap();
        }
        let sample = Sample::new(&measured, 3.0);
        let near = |value: f64, wanted: f64| (value - wanted).abs() < 0.01 * wanted;
        assert!(near(sample.per_second, 25_000.0) && near(sample.cpu_per_100k, 6.0), "{sample:?}");
        assert!(
            near(sample.p50_ms, 5.0) && near(sample.p99_ms, 9.9) && near(sample.p999_ms, 9.99),
            "{sample:?}"
        );
    }
}
