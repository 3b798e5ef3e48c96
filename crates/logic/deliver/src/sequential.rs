//! An anytime-valid test of a canary against the stable fleet.
//!
//! Time is cut into slices. In each, given how many bad requests both versions had together, the canary's share of
//! them is binomial with the canary's share of all requests when both are equally good. For an odds ratio θ the
//! likelihood ratio against a tolerated ratio θ₀ is a martingale under θ₀ and a supermartingale below it, so a mixture over
//! several θ is an e-process: by Ville's inequality it ever exceeds 1/α with probability at most α, however often one
//! looks (Ramdas, Grünwald, Vovk, Shafer: Game-theoretic statistics and safe anytime-valid inference, 2023, §2 and §4).
//!
//! "Bad" is a failed request, or one slower than a threshold. Several kinds of bad share α.

/// Requests of one version in one slice of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// All requests.
    pub requests: f64,
    /// Of these, failed by the server's fault (5xx).
    pub errors: f64,
    /// Of these, slower than each of the thresholds in turn.
    pub slow: Vec<f64>,
}

/// Both versions in one slice of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slice {
    /// The version on trial.
    pub canary: Counts,
    /// The version known to be good.
    pub stable: Counts,
}

/// How sure one must be, and what is tolerated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Probability that a version as good as the old one is ever called worse.
    pub alpha: f64,
    /// Tolerated ratio of the odds of an error.
    pub tolerated_errors: f64,
    /// Tolerated ratio of the odds of a slow request.
    pub tolerated_slow: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { alpha: 0.01, tolerated_errors: 1.25, tolerated_slow: 2.5 }
    }
}

/// What the evidence says.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The new version is worse.
    Worse(Finding),
    /// Nothing is proved.
    Undecided {
        /// Requests of the canary that were looked at.
        requests: f64,
    },
}

/// What was found to be worse.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Index of the latency threshold; `None` for errors.
    pub threshold: Option<usize>,
    /// The e-value, at least 1/α of its share.
    pub evidence: f64,
    /// Share of bad requests of the canary.
    pub canary_rate: f64,
    /// Share of bad requests of the stable version.
    pub stable_rate: f64,
    /// Requests of the canary that were looked at.
    pub requests: f64,
}

/// Odds ratios mixed over, as multiples of the tolerated one.
const RATIOS: [f64; 7] = [1.5, 2.0, 3.0, 6.0, 15.0, 50.0, 200.0];

/// Judges slices in order of time. All slices have as many thresholds.
pub fn judge(slices: &[Slice], settings: &Settings) -> Verdict {
    let thresholds = slices.iter().map(|s| s.canary.slow.len().min(s.stable.slow.len())).min().unwrap_or(0);
    // Errors get half of α, the thresholds the rest.
    let error_alpha = if thresholds == 0 { settings.alpha } else { settings.alpha / 2.0 };
    let slow_alpha = settings.alpha / 2.0 / thresholds.max(1) as f64;
    let errors =
        Test { bad: |c: &Counts| c.errors, tolerated: settings.tolerated_errors, alpha: error_alpha };
    if let Some(finding) = errors.run(slices) {
        return Verdict::Worse(finding);
    }
    for index in 0..thresholds {
        let slow = Test {
            bad: move |c: &Counts| c.slow.get(index).copied().unwrap_or(0.0),
            tolerated: settings.tolerated_slow,
            alpha: slow_alpha,
        };
        if let Some(finding) = slow.run(slices) {
            return Verdict::Worse(Finding { threshold: Some(index), ..finding });
        }
    }
    Verdict::Undecided { requests: slices.iter().map(|s| s.canary.requests).sum() }
}

struct Test<F> {
    bad: F,
    tolerated: f64,
    alpha: f64,
}

impl<F: Fn(&Counts) -> f64> Test<F> {
    fn run(&self, slices: &[Slice]) -> Option<Finding> {
        let mut logs = [0.0_f64; RATIOS.len()];
        let mut totals = [0.0_f64; 4];
        for Slice { canary, stable } in slices {
            let (n, m) = (canary.requests.max(0.0), stable.requests.max(0.0));
            let (k, l) = ((self.bad)(canary).clamp(0.0, n), (self.bad)(stable).clamp(0.0, m));
            for (total, part) in totals.iter_mut().zip([n, k, m, l]) {
                *total += part;
            }
            // Without the other version's requests there is nothing to compare with.
            if n <= 0.0 || m <= 0.0 || k + l <= 0.0 {
                continue;
            }
            let tolerated = self.tolerated * n / m;
            let null = tolerated / (1.0 + tolerated);
            for (log, ratio) in logs.iter_mut().zip(RATIOS) {
                let odds = tolerated * ratio;
                let worse = odds / (1.0 + odds);
                *log += k * (worse / null).ln() + l * ((1.0 - worse) / (1.0 - null)).ln();
            }
            let evidence = mean_exp(&logs);
            let [requests, bad, stable_requests, stable_bad] = totals;
            if evidence >= 1.0 / self.alpha {
                return Some(Finding {
                    threshold: None,
                    evidence,
                    canary_rate: bad / requests,
                    stable_rate: stable_bad / stable_requests,
                    requests,
                });
            }
        }
        None
    }
}

/// The mean of the exponentials, without overflow.
fn mean_exp(logs: &[f64]) -> f64 {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|log| (log - top).exp()).sum();
    top.exp() * sum / logs.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small deterministic generator (Vigna's SplitMix64): the tests need chance that repeats.
    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn bad(&mut self, requests: u32, rate: f64) -> f64 {
            (0..requests).filter(|_| self.uniform() < rate).count() as f64
        }
    }

    fn run(seed: u64, seconds: usize, canary: (u32, f64), stable: (u32, f64)) -> Option<usize> {
        let mut random = Random(seed);
        let mut slices = Vec::new();
        for second in 1..=seconds {
            let counts = |random: &mut Random, (n, rate): (u32, f64)| Counts {
                requests: f64::from(n),
                errors: random.bad(n, rate),
                slow: Vec::new(),
            };
            let slice = Slice { canary: counts(&mut random, canary), stable: counts(&mut random, stable) };
            slices.push(slice);
            if matches!(judge(&slices, &Settings::default()), Verdict::Worse(_)) {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn an_equal_version_is_almost_never_called_worse() {
        let wrong = (0..400).filter(|seed| run(*seed, 200, (2, 0.02), (98, 0.02)).is_some()).count();
        assert!(wrong <= 8, "{wrong} of 400");
    }

    /// The share of bad requests, the canary's requests a second, and the seconds it may take in the median.
    #[test]
    fn a_worse_version_is_found_in_time() {
        for (rate, rps, within) in [(0.20, 1, 20), (0.05, 10, 90), (0.02, 10, 60), (0.30, 1, 15)] {
            let mut seconds: Vec<usize> =
                (0..41).map(|seed| run(seed, 400, (rps, rate), (rps * 99, 0.0005)).unwrap_or(400)).collect();
            seconds.sort_unstable();
            assert!(seconds[20] <= within, "{rate} at {rps} rps: {} s", seconds[20]);
        }
    }

    #[test]
    fn without_traffic_nothing_is_proved() {
        assert_eq!(judge(&[], &Settings::default()), Verdict::Undecided { requests: 0.0 });
        let lonely =
            Slice { canary: Counts { requests: 5.0, errors: 5.0, slow: vec![] }, stable: Counts::default() };
        assert_eq!(judge(&[lonely], &Settings::default()), Verdict::Undecided { requests: 5.0 });
    }

    #[test]
    fn slow_requests_count_too() {
        let counts = |n: f64, slow: f64| Counts { requests: n, errors: 0.0, slow: vec![slow] };
        let slices: Vec<Slice> =
            (0..10).map(|_| Slice { canary: counts(5.0, 4.0), stable: counts(95.0, 9.0) }).collect();
        let Verdict::Worse(finding) = judge(&slices, &Settings::default()) else { panic!("not found") };
        assert_eq!((finding.threshold, finding.canary_rate), (Some(0), 0.8));
    }
}
