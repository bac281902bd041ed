//! Which spectra pulls are over, and whether that is a test of the error bars, in a line each.

use fisherflow_report::settings::{Pulls, Shown};

use crate::printing::count;

/// Which spectra the pulls are over, and what they are over those that something was fitted to.
pub fn pulled(shown: Shown<'_>) -> Vec<String> {
    let number = |pulls: &[Pulls]| count(pulls.first().map_or(0, |pulls| pulls.n_spectra));
    match shown {
        Shown::Nothing => Vec::new(),
        Shown::Fitted {
            pulls,
            are_predicted: true,
        } => vec![format!(
            "pulls are over {} held-out spectra of the fit's catalogue: what is fitted to these is not tested by them, but where their root mean \
             square (of mean and std) is far from 1 the error bars are wrong",
            number(pulls)
        )],
        Shown::Fitted {
            pulls,
            are_predicted: false,
        } => vec![format!(
            "pulls are over {} held-out spectra that the error bars are fitted to: no independent test",
            number(pulls)
        )],
        Shown::Predicted {
            pulls,
            is_test,
            held_out,
        } => {
            let over = format!(
                "pulls are over {} spectra of [predict]{}",
                number(pulls),
                test_or_not(is_test)
            );
            let beside = held_out.map(|held_out| {
                let stds: Vec<String> = held_out
                    .iter()
                    .map(|p| format!("{:.3}", p.standard_deviation))
                    .collect();
                format!(
                    "pull std over the {} held-out spectra of the fit, which the error bars are fitted to: {}",
                    number(held_out),
                    stds.join(", ")
                )
            });
            std::iter::once(over).chain(beside).collect()
        }
    }
}

/// Whether pulls over spectra of another catalogue are a test; of how many of its stars are in the fit's the notes tell.
fn test_or_not(is_test: Option<bool>) -> &'static str {
    match is_test {
        None => "; whether they are a test is unknown: a note below says why",
        Some(false) => ", of too many stars that the fit has too: over these they are no test",
        Some(true) => ": a test, if the network was not trained on these",
    }
}

#[cfg(test)]
mod tests {
    use fisherflow_report::settings::Settings;

    use super::*;

    #[test]
    fn pulls_over_stars_of_the_fit_are_no_test() {
        let told = |in_fit: serde_json::Value| {
            let pulls = serde_json::json!([{ "n_spectra": 52, "mean": 0.1, "standard_deviation": 1.05, "within_one_sigma": 0.68 }]);
            let network = serde_json::json!({ "weights": 7, "labels": ["teff"] });
            let settings = serde_json::json!({ "network": network, "pulls": pulls, "pulls_over": "predicted", "pulls_in_fit": in_fit });
            pulled(serde_json::from_value::<Settings>(settings).unwrap().shown()).join("\n")
        };
        let known = |found: u64| told(serde_json::json!({ "looked_up": 52, "found": found, "is_test": found < 6 }));
        assert_eq!(
            known(50),
            "pulls are over 52 spectra of [predict], of too many stars that the fit has too: over these they are no test"
        );
        let test = "pulls are over 52 spectra of [predict]: a test, if the network was not trained on these";
        assert_eq!(known(1), test);
        assert_eq!(told(serde_json::Value::Null), test);
        assert_eq!(
            told(serde_json::json!({ "looked_up": 0, "found": 0, "is_test": false })),
            "pulls are over 52 spectra of [predict]; whether they are a test is unknown: a note below says why"
        );
    }
}
