//! Catalogues: their flux errors, masks and labels, and what `[predict]` takes over from `[catalogue]`.

use fisherflow_spectra::{FluxError, LabelErrors};
use fisherflow_store::OnBadObject;

use super::*;

#[test]
fn flux_errors_are_exactly_one() {
    let two = with(LEAST, "ivar = \"ivar\"", "ivar = \"ivar\"\nsigma = \"s\"");
    assert!(
        parse(&two)
            .unwrap_err()
            .contains("exactly one of sigma, ivar and exact_inputs = true")
    );
    let exact = with(LEAST, "ivar = \"ivar\"", "exact_inputs = true");
    assert_eq!(parse(&exact).unwrap().catalogue.columns.error, FluxError::Exact);
    let inexact = with(LEAST, "ivar = \"ivar\"", "ivar = \"ivar\"\nexact_inputs = false");
    assert!(parse(&inexact).is_ok());
    let both = with(LEAST, "ivar = \"ivar\"", "ivar = \"ivar\"\nexact_inputs = true");
    assert!(
        parse(&both)
            .unwrap_err()
            .contains("`catalogue.exact_inputs` is one too many")
    );
}

#[test]
fn a_column_is_named_by_one_key() {
    let error = refused("sigma = \"flux_err\"", "sigma = \"flux\"");
    let n = line_of("sigma = ");
    assert_eq!(
        error,
        format!(
            "run.toml:{n}: `catalogue.sigma` names the column \"flux\", and so does `catalogue.flux`: it can be but one of them"
        )
    );
    // Of what is taken over there is no line in the table.
    let predict = |flux: &str| parse(&format!("{LEAST}[predict]\nflux = \"{flux}\"\n"));
    let n = LEAST.lines().count() + 2;
    let said = format!("run.toml:{n}: `predict.flux` names the column \"ivar\", and so does `catalogue.ivar`: ");
    let error = predict("ivar").unwrap_err();
    assert!(error.starts_with(&said), "{error}\nexpected {said}");
    assert!(predict("teff").is_ok(), "labels are not taken over");
}

#[test]
fn label_errors_are_columns_or_one_column_of_covariances() {
    let covariances = with(
        LEAST,
        "labels = [\"teff\"]",
        "labels = [\"teff\"]\nlabel_errors = \"cov\"",
    );
    let errors = parse(&covariances).unwrap().catalogue.columns.label_errors;
    assert_eq!(errors, LabelErrors::Covariance("cov".to_owned()));
    let without = with(LEAST, "labels = [\"teff\"]", "label_errors = \"cov\"");
    assert!(parse(&without).unwrap_err().contains("has no labels"));
}

#[test]
fn a_mask_without_bits_means_any_bit() {
    let text = with(LEAST, "flux = \"flux\"", "flux = \"flux\"\nmask = \"m\"");
    let mask = parse(&text).unwrap().catalogue.columns.mask.unwrap();
    assert_eq!(mask.bad(), u64::MAX);
}

#[test]
fn labels_may_be_absent_where_the_noise_is_given() {
    let text = with(LEAST, "labels = [\"teff\"]", "");
    let run = parse(&format!("{text}[noise]\ncovariance = [[4.0]]\n")).unwrap();
    assert!(run.catalogue.columns.labels.is_empty());
}

#[test]
fn predict_inherits_the_columns_it_does_not_name() {
    let run = parse(&format!(
        "{LEAST}[predict]\nuri = \"dr17/*.parquet\"\nflux = \"spectrum\"\n"
    ))
    .unwrap();
    let predicted = run.predict.catalogue.unwrap();
    assert_eq!(predicted.uri, "dr17/*.parquet");
    assert_eq!(predicted.columns.flux, "spectrum");
    assert_eq!(predicted.columns.id, "id");
    assert_eq!(predicted.columns.error, FluxError::Ivar("ivar".to_owned()));
    // The labels of the stars to predict need not be known.
    assert!(predicted.columns.labels.is_empty());

    let run = parse(&format!(
        "{LEAST}[predict]\nuri = \"d.parquet\"\nsigma = \"s\"\nlabels = [\"t\"]\non_bad_object = \"skip\"\n"
    ))
    .unwrap();
    let predicted = run.predict.catalogue.unwrap();
    assert_eq!(predicted.columns.error, FluxError::Sigma("s".to_owned()));
    assert_eq!(predicted.columns.labels, ["t"]);
    assert_eq!(predicted.on_bad_object, OnBadObject::Skip);
    assert_eq!(run.catalogue.on_bad_object, OnBadObject::Fail);
}

#[test]
fn spectra_to_predict_are_as_exact_as_they_are_said_to_be() {
    let exact = with(LEAST, "ivar = \"ivar\"", "exact_inputs = true");
    let predict = |said: &str| parse(&format!("{exact}[predict]\nuri = \"d.parquet\"\n{said}\n"));
    let error = predict("exact_inputs = false").unwrap_err();
    assert!(
        error.contains("`predict.exact_inputs` is false, and [catalogue] has no errors to take over"),
        "{error}"
    );
    for (said, errors) in [
        ("", FluxError::Exact),
        ("exact_inputs = true", FluxError::Exact),
        ("exact_inputs = false\nsigma = \"s\"", FluxError::Sigma("s".to_owned())),
    ] {
        let catalogue = predict(said).unwrap().predict.catalogue.unwrap();
        assert_eq!(catalogue.columns.error, errors, "{said}");
    }
}

#[test]
fn predict_without_a_catalogue_is_the_fit_s_own() {
    for own in [
        "",
        "uri = \"c.parquet\"\n",
        "uri = \"c.parquet\"\nivar = \"ivar\"\n",
        // What a key says by default.
        "exclude = []\n",
        "mask = false\n",
        "on_bad_object = \"fail\"\n",
    ] {
        let text = format!("{LEAST}[predict]\n{own}keep_columns = [\"snr\"]\n");
        let run = parse(&text).unwrap();
        assert_eq!(run.predict.catalogue, None, "{own}");
        assert_eq!(run.catalogue.columns.keep, ["snr"]);
    }
    let other = parse(&format!("{LEAST}[predict]\nflux = \"flux_2\"\n")).unwrap();
    let predicted = other.predict.catalogue.unwrap();
    assert_eq!(
        (predicted.uri.as_str(), predicted.columns.flux.as_str()),
        ("c.parquet", "flux_2")
    );
}

#[test]
fn a_mask_can_be_disinherited() {
    let text = with(
        LEAST,
        "flux = \"flux\"",
        "flux = \"flux\"\nmask = \"m\"\nbad_bits = [1]",
    );
    let run = parse(&format!("{text}[predict]\nuri = \"d.parquet\"\nmask = false\n")).unwrap();
    assert_eq!(run.predict.catalogue.unwrap().columns.mask, None);
    let run = parse(&format!("{text}[predict]\nuri = \"d.parquet\"\n")).unwrap();
    assert_eq!(run.predict.catalogue.unwrap().columns.mask.unwrap().bad_bits, [1]);
}
