//! What is refused: where each error points, what it expects, and what it tells to do.

use super::*;

#[test]
fn unknown_keys_name_line_and_nearest_key_at_every_depth() {
    for (line, typo, key, near) in [
        ("[noise]", "[nosie]", "nosie", "noise"),
        (
            "uri = \"network.safetensors\"",
            "url = \"n\"",
            "network.url",
            "network.uri",
        ),
        (
            "units = [\"K\", \"dex\", \"dex\"]",
            "unit = []",
            "network.labels.unit",
            "network.labels.units",
        ),
        (
            "sigma = \"flux_err\"",
            "sgima = \"flux_err\"",
            "catalogue.sgima",
            "catalogue.sigma",
        ),
        (
            "jacobians = true",
            "jacobian = true",
            "predict.jacobian",
            "predict.jacobians",
        ),
        (
            "structure = \"kfac\"",
            "structrue = \"kfac\"",
            "curvature.structrue",
            "curvature.structure",
        ),
        ("from = \"holdout\"", "form = \"holdout\"", "noise.form", "noise.from"),
        ("precision = 1.5", "precison = 1.5", "prior.precison", "prior.precision"),
        ("threads = 1", "thread = 1", "compute.thread", "compute.threads"),
        ("uri = \"out/spex\"", "ur = \"out\"", "output.ur", "output.uri"),
        ("epochs = 30", "epoch = 30", "train.epoch", "train.epochs"),
    ] {
        let error = refused(line, typo);
        let n = line_of(line);
        let start = format!("run.toml:{n}: unknown key `{key}`: the nearest is `{near}`");
        assert!(error.starts_with(&start), "{error}\nexpected {start}");
    }
}

#[test]
fn other_words_for_a_key_are_known_and_nothing_absurd_is_proposed() {
    for (line, replacement, said) in [
        (
            "sigma = \"flux_err\"",
            "error = \"flux_err\"",
            "`catalogue.error`: it is called `catalogue.sigma` here; ",
        ),
        (
            "[noise]",
            "[model]",
            "`model`: it is called `network` here; a run file has the keys ",
        ),
        (
            "scale = [500.0, 0.8, 0.3]",
            "std = [500.0, 0.8, 0.3]",
            "it is called `network.labels.scale` here",
        ),
        (
            "input_scale = 0.1",
            "input_std = 0.1",
            "it is called `network.input_scale` here",
        ),
        (
            "holdout_fraction = 0.2",
            "holdout = 0.2",
            "it is called `noise.holdout_fraction` here",
        ),
        (
            "precision = 1.5",
            "weight_decay = 1e-4",
            "it is another number than `prior.precision`; for that write a number: the precision of each weight",
        ),
        (
            "precision = 1.5",
            "l2 = 1e-4",
            "(l2(w) and mse of Keras) is N K w / sigma^2, sigma^2 the variance of held-out residuals",
        ),
        ("threads = 1", "workers = 4", "it is -w on the command line"),
        (
            "uri = \"out/spex\"",
            "overwrite = true",
            "it is --overwrite on the command line",
        ),
        (
            "mask = \"mask\"",
            "airmass = \"x\"",
            "`catalogue.airmass`: [catalogue] has the keys `uri`, ",
        ),
        (
            "precision = \"f32\"",
            "precision = \"single\"",
            "expected \"f32\", \"f64\", \"auto\", \"bf16x3\" or \"bf16\"",
        ),
        (
            "learning_rate = 0.0008",
            "activation = \"leaky_relu\"",
            "say its slope: `leaky_relu(0.01)` as torch",
        ),
        (
            "layers = [\"dense\", \"relu\", \"dense\"]",
            "layers = [\"dense\", \"dropout\", \"dense\"]",
            "unknown layer `dropout`; leave it out",
        ),
    ] {
        let error = refused(line, replacement);
        assert!(error.contains(said), "{error}\nexpected {said}");
        assert!(
            said.contains("the nearest") || !error.contains("the nearest"),
            "{error}"
        );
    }
}

#[test]
fn a_key_under_the_wrong_header_is_told_where_it_belongs() {
    let error = refused("threads = 1", "hidden = [3]");
    assert!(
        error.ends_with("unknown key `compute.hidden`: it is a key of [train]"),
        "{error}"
    );
    let error = refused("threads = 1", "keep_columns = [\"a\"]");
    assert!(error.ends_with("it is a key of [predict]"), "{error}");
    for (line, replacement, here) in [
        ("input_mean = 1.0", "mean = 1.0", "input_mean"),
        ("input_scale = 0.1", "scale = 0.1", "input_scale"),
    ] {
        let error = refused(line, replacement);
        let both = format!("it is called `network.{here}` here, or it is a key of [network.labels]");
        assert!(error.ends_with(&both), "{error}\nexpected {both}");
    }
}

#[test]
fn wrong_types_say_what_is_expected_and_found() {
    for (line, replacement, said) in [
        (
            "version = 1",
            "version = \"1\"",
            "`version` takes an integer, found the string \"1\"",
        ),
        (
            "uri = \"network.safetensors\"",
            "uri = 3",
            "`network.uri` takes a string, found the integer 3",
        ),
        (
            "input_mean = 1.0",
            "input_mean = true",
            "`network.input_mean` takes a number, or an array of one number a pixel, found true",
        ),
        (
            "layers = [\"dense\", \"relu\", \"dense\"]",
            "layers = \"dense\"",
            "`network.layers` takes an array of layer names, found the string \"dense\"",
        ),
        (
            "labels = [\"teff\", \"logg\", \"fe_h\"]",
            "labels = [\"teff\", 2, \"fe_h\"]",
            "`catalogue.labels[1]` takes a string, found the integer 2",
        ),
        (
            "jacobians = true",
            "jacobians = \"yes\"",
            "`predict.jacobians` takes true or false, found the string \"yes\"",
        ),
        (
            "structure = \"kfac\"",
            "structure = [\"kfac\"]",
            "`curvature.structure` takes a string, found an array of 1",
        ),
        (
            "\"layers.6\" = \"block\"",
            "\"layers.6\" = 6",
            "`curvature.layers.\"layers.6\"` takes a string, found the integer 6",
        ),
        (
            "precision = 1.5",
            "precision = [1.5]",
            "`prior.precision` takes a number, found an array of 1",
        ),
        (
            "batch = 512",
            "batch = 512.0",
            "`compute.batch` takes an integer, found the number 512.0",
        ),
        (
            "epochs = 30",
            "epochs = 1979-05-27",
            "`train.epochs` takes an integer, found the date 1979-05-27",
        ),
    ] {
        assert_eq!(
            refused(line, replacement),
            format!("run.toml:{}: {said}", line_of(line))
        );
    }
    let error = parse("version = 1\nnetwork = 3\n").unwrap_err();
    assert_eq!(error, "run.toml:2: `network` takes a table, found the integer 3");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (line, replacement, said) in [
        ("uri = \"network.safetensors\"", "uri = \"\"", "`network.uri` is empty"),
        (
            "uri = \"network.safetensors\"",
            "uri = \"network.bin\"",
            "ends in .safetensors",
        ),
        (
            "layers = [\"dense\", \"relu\", \"dense\"]",
            "layers = [\"dense\", \"rel\"]",
            "`network.layers[1]` is not a layer",
        ),
        (
            "input_scale = 0.1",
            "input_scale = 0",
            "is 0, expected a number above 0",
        ),
        ("input_scale = 0.1", "input_scale = [1, -2]", "has -2 at pixel 1"),
        (
            "input_scale = 0.1",
            "input_scale = nan",
            "is nan, expected a finite number",
        ),
        (
            "mean = [4700.0, 2.3, -0.2]",
            "mean = [1]",
            "`network.labels.mean` has 1 values, `network.labels.names` has 3",
        ),
        (
            "scale = [500.0, 0.8, 0.3]",
            "scale = [500.0, 0.0, 0.3]",
            "has 0, expected numbers above 0",
        ),
        (
            "names = [\"teff\", \"logg\", \"fe_h\"]",
            "names = [\"a\", \"a\", \"b\"]",
            "names `a` twice",
        ),
        (
            "names = [\"teff\", \"logg\", \"fe_h\"]",
            "names = [\"logg\", \"teff\", \"fe_h\"]",
            r#"`catalogue.labels` names the columns in the order ["teff", "logg", "fe_h"], and [network.labels] the network's outputs in the order ["logg", "teff", "fe_h"]"#,
        ),
        (
            "bad_bits = [3, 0, 1]",
            "bad_bits = [64]",
            "`catalogue.bad_bits[0]` is 64, expected a bit from 0 to 63",
        ),
        (
            "bad_bits = [3, 0, 1]",
            "bad_bits = [-1]",
            "expected an integer of at least 0",
        ),
        ("mask = \"mask\"", "", "`catalogue.bad_bits` has no mask"),
        ("mask = \"mask\"", "mask = true", "false for none"),
        (
            "format = \"parquet\"",
            "format = \"parqet\"",
            "the nearest is \"parquet\"",
        ),
        // What is not supported is not the nearest.
        (
            "format = \"parquet\"",
            "format = \"hdf\"",
            "`catalogue.format` is \"hdf\", expected \"parquet\"",
        ),
        (
            "labels = [\"teff\", \"logg\", \"fe_h\"]",
            "labels = [\"teff\"]",
            "`catalogue.label_errors` names 3 columns, `labels` has 1",
        ),
        (
            "label_errors = [\"e_teff\", \"e_logg\", \"e_fe_h\"]",
            "label_errors = [\"e\"]",
            "`catalogue.label_errors` names 1 columns, `labels` has 3",
        ),
        (
            "on_bad_object = \"fail\"",
            "on_bad_object = \"skpi\"",
            "expected \"fail\" or \"skip\"; the nearest is \"skip\"",
        ),
        (
            "structure = \"kfac\"",
            "structure = \"kfca\"",
            "the nearest is \"kfac\"",
        ),
        (
            "structure = \"kfac\"",
            "structure = \"kfac\"\nweight_sharing = \"expnad\"",
            "`curvature.weight_sharing` is \"expnad\", expected \"expand\" or \"reduce\"; the nearest is \"expand\"",
        ),
        (
            "structure = \"kfac\"",
            "structure = \"kfac\"\nsplit_bias = 1",
            "`curvature.split_bias` takes true or false, found the integer 1",
        ),
        ("from = \"holdout\"", "from = \"holdup\"", "the nearest is \"holdout\""),
        (
            "holdout_fraction = 0.2",
            "holdout_fraction = 1.0",
            "above 0 and below 1",
        ),
        ("holdout_fraction = 0.2", "holdout_fraction = 0", "above 0 and below 1"),
        (
            "holdout_fraction = 0.2",
            "farthest_input = 1",
            "a number above 1, or false",
        ),
        (
            "holdout_fraction = 0.2",
            "farthest_input = true",
            "or false for no limit",
        ),
        (
            "precision = 1.5",
            "precision = -1",
            "is -1, expected a number of at least 0",
        ),
        ("precision = 1.5", "precision = inf", "is inf, expected a finite number"),
        (
            "precision = \"f32\"",
            "precision = \"f16\"",
            "expected \"f32\", \"f64\", \"auto\", \"bf16x3\" or \"bf16\"",
        ),
        (
            "precision = \"f32\"",
            "device = \"gpu\"",
            "`compute.device` is \"gpu\", expected \"cpu\" or \"cuda\"; it is called \"cuda\" here",
        ),
        (
            "precision = \"f32\"",
            "device = \"cuda\"\nprecision = \"bf16\"",
            "\"bf16\" is not yet supported",
        ),
        (
            "batch = 512",
            "batch = 0",
            "`compute.batch` is 0, expected an integer of at least 1",
        ),
        ("uri = \"out/spex\"", "uri = \"out/*\"", "one folder, without wildcards"),
        (
            "hidden = [2048, 1024, 512, 256, 128, 32]",
            "hidden = [8, 0]",
            "`train.hidden[1]` is 0",
        ),
        (
            "learning_rate = 0.0008",
            "learning_rate = 0",
            "`train.learning_rate` is 0; it must be a finite number above 0",
        ),
        (
            "learning_rate = 0.0008",
            "learning_rate = 1e39",
            "`train.learning_rate` is 1e39; training in f32 rounds it to 0 or to infinity: take one from 1e-37",
        ),
        (
            "learning_rate = 0.0008",
            "epsilon = 1e-50",
            "`train.epsilon` is 1e-50; training in f32 rounds it to 0",
        ),
        (
            "learning_rate = 0.0008",
            "beta_1 = 1.0",
            "`train.beta_1` is 1; it must be from 0 to below 1",
        ),
        (
            "learning_rate = 0.0008",
            "beta_2 = 0.99999999999",
            "`train.beta_2` is 0.99999999999; training in f32 rounds it to 1",
        ),
        (
            "learning_rate = 0.0008",
            "activation = \"rel\"",
            "`train.activation` is not an activation",
        ),
        (
            "learning_rate = 0.0008",
            "activation = \"dense\"",
            "expected an activation",
        ),
    ] {
        let error = refused(line, replacement);
        let said_so = error.starts_with("run.toml:") && error.contains(said);
        assert!(said_so, "{replacement}: {error}\nexpected {said}");
    }
}

/// Each would be taken for the error of another label.
#[test]
fn errors_of_labels_in_another_order_are_told_by_their_names() {
    let in_order = |labels: &str, errors: &str| {
        let said = format!("labels = {labels}\nlabel_errors = {errors}");
        parse(&with(LEAST, "labels = [\"teff\"]", &said)).map(|run| run.catalogue.columns.label_errors)
    };
    for (labels, errors, said) in [
        (
            r#"["fe_h", "mg_fe"]"#,
            r#"["e_mg_fe", "e_fe_h"]"#,
            r#"["mg_fe", "fe_h"]"#,
        ),
        (
            r#"["TEFF", "LOGG"]"#,
            r#"["LOGG_ERR", "TEFF_ERR"]"#,
            r#"["LOGG", "TEFF"]"#,
        ),
        // One name in another.
        (r#"["h", "fe_h"]"#, r#"["e_fe_h", "e_h"]"#, r#"["fe_h", "h"]"#),
    ] {
        let error = in_order(labels, errors).unwrap_err();
        let expected = format!(
            "`catalogue.label_errors` names errors of the labels in the order {said}, and `labels` has the order {labels}"
        );
        assert!(error.contains(&expected), "{error}\nexpected {expected}");
    }
    for (labels, errors) in [
        (r#"["fe_h", "mg_fe"]"#, r#"["e_fe_h", "e_mg_fe"]"#),
        (r#"["h", "fe_h"]"#, r#"["e_h", "e_fe_h"]"#),
        // Names of another kind, whatever letters they have.
        (r#"["g", "u"]"#, r#"["err_u", "sig"]"#),
        (r#"["teff", "logg"]"#, r#"["sigma_1", "sigma_2"]"#),
    ] {
        assert!(in_order(labels, errors).is_ok(), "{labels} {errors}");
    }
    let predicted = "[predict]\nlabels = [\"teff\", \"logg\"]\nlabel_errors = [\"e_logg\", \"e_teff\"]\n";
    let error = parse(&format!("{LEAST}{predicted}")).unwrap_err();
    assert!(
        error.contains("`predict.label_errors` names errors of the labels in the order"),
        "{error}"
    );
}

#[test]
fn what_a_later_version_does_is_refused_and_not_ignored() {
    for (line, replacement, said) in [
        (
            "version = 1",
            "version = 2",
            "version 2 is not yet supported by this version of fisherflow; it reads version = 1",
        ),
        (
            "uri = \"network.safetensors\"",
            "uri = \"https://x/model.KERAS\"",
            "a .keras network is not yet supported by this version of fisherflow; convert it to .safetensors: README.md, \"From Keras or torch\"",
        ),
        (
            "uri = \"network.safetensors\"",
            "uri = \"model.onnx\"",
            "convert it to .safetensors",
        ),
        (
            "input_mean = 1.0",
            "input_mean = \"mean.npy\"",
            "`network.input_mean`: a file of numbers is not yet supported",
        ),
        (
            "format = \"parquet\"",
            "format = \"fits-apstar\"",
            "\"fits-apstar\" is not yet supported by this version of fisherflow; use \"parquet\"",
        ),
        (
            "format = \"parquet\"",
            "format = \"fits\"",
            "`catalogue.format`: \"fits\" is not yet supported by this version of fisherflow; use \"parquet\": convert it to .parquet as \
             README.md, \"Your own data\", says",
        ),
        (
            "format = \"parquet\"",
            "format = \"hdf5\"",
            "\"hdf5\" is not yet supported by this version of fisherflow; use \"parquet\"",
        ),
        (
            "uri = \"s3://survey/training/*.parquet\"",
            "uri = \"apStar-*.fits\"",
            "a .fits catalogue is not yet supported by this version of fisherflow; convert it to .parquet as README.md, \
             \"Your own data\", says",
        ),
        (
            "uri = \"network.safetensors\"",
            "uri = \"model.pth\"",
            "a .pth network is not yet supported by this version of fisherflow; convert it to .safetensors: README.md",
        ),
        (
            "uri = \"s3://survey/training/*.parquet\"",
            "uri = \"spectra.csv\"",
            "a .csv catalogue is not yet supported by this version of fisherflow; convert it to .parquet",
        ),
    ] {
        let error = refused(line, replacement);
        let start = format!("run.toml:{}: ", line_of(line));
        assert!(
            error.starts_with(&start) && error.contains(said),
            "{error}\nexpected {said}"
        );
    }
    let error = refused("precision = 1.5", "precision = \"evidnce\"");
    assert!(error.contains("takes a number of at least 0"), "{error}");
}

#[test]
fn priors_and_noises_that_do_not_go_together_are_refused() {
    let prior = |lines: &str| parse(&with(LEAST, "precision = 0", lines)).unwrap_err();
    for (lines, said) in [
        (
            "precision = 2\nper_layer = true",
            "`prior.per_layer` goes with precision = \"evidence\"",
        ),
        (
            "precision = \"holdout\"\nper_layer = true",
            "`prior.per_layer` goes with precision = \"evidence\"",
        ),
        (
            "precision = 2\nlabel_scale = 3",
            "`prior.label_scale` takes true or false",
        ),
        ("precision = 2\nlayers = 3", "`prior.layers` takes a table"),
        (
            "precision = 2\n[prior.layers]\n\"layers.0\" = -1",
            "`prior.layers.\"layers.0\"` is -1, expected a number of at least 0",
        ),
        (
            "precision = 2\n[prior.layers]\n\"layers.0\" = \"evidence\"",
            "`prior.layers.\"layers.0\"` takes a number",
        ),
        (
            "precision = \"holdout\"\n[noise]\ncovariance = [[1]]\nholdout_fraction = 0",
            "`prior.precision` looks at held-out spectra, and noise.holdout_fraction is 0",
        ),
        (
            "precision = 1\nlabel_scale = true\n[noise]\ncovariance = [[1]]\nholdout_fraction = 0",
            "`prior.label_scale` looks at held-out spectra",
        ),
    ] {
        let error = prior(lines);
        assert!(error.contains(said), "{error}\nexpected {said}");
    }
    let noise = |lines: &str| parse(&format!("{LEAST}{lines}\n")).unwrap_err();
    for (lines, said) in [
        (
            "[noise.intrinsic_bins]\nteff = [5000, 4000]",
            "`noise.intrinsic_bins.\"teff\"` does not ascend: 5000 stands before 4000",
        ),
        ("[noise.intrinsic_bins]\nteff = [1, 1]", "does not ascend"),
        ("[noise.intrinsic_bins]\nteff = []", "has no edge"),
        ("[noise.intrinsic_bins]\nteff = 5", "takes an array of numbers"),
        ("[noise]\nintrinsic_bins = [5]", "`noise.intrinsic_bins` takes a table"),
        (
            "[noise]\ncovariance = [[1]]\nholdout_fraction = 0\n[noise.intrinsic_bins]\nteff = [5]",
            "needs held-out spectra, and noise.holdout_fraction is 0",
        ),
        (
            "[noise]\nerrors_in_variables = 1",
            "`noise.errors_in_variables` takes true or false",
        ),
    ] {
        let error = noise(lines);
        assert!(error.contains(said), "{error}\nexpected {said}");
    }
    let exact = with(LEAST, "ivar = \"ivar\"", "exact_inputs = true");
    let error = parse(&format!("{exact}[noise]\nerrors_in_variables = true\n")).unwrap_err();
    assert!(error.contains("bring no photon noise"), "{error}");
    let unlabelled = with(LEAST, "labels = [\"teff\"]", "");
    let given = "[noise]\ncovariance = [[1]]\n";
    let error = parse(&format!("{unlabelled}{given}[noise.intrinsic_bins]\nteff = [5]\n")).unwrap_err();
    assert!(
        error.contains("C_intrinsic by cell comes from held-out residuals"),
        "{error}"
    );
    let by_holdout = with(&unlabelled, "precision = 0", "precision = \"holdout\"");
    let error = parse(&format!("{by_holdout}{given}")).unwrap_err();
    assert!(error.contains("name the columns of labels"), "{error}");
    let steps = |steps: u32| parse(&format!("{unlabelled}{given}[certificate]\nhessian_steps = {steps}\n"));
    let error = steps(50).unwrap_err();
    assert!(
        error.contains("`certificate.hessian_steps` looks at the true Hessian") && error.contains("name the columns"),
        "{error}"
    );
    assert!(steps(0).is_ok());
}

#[test]
fn missing_keys_name_their_table_and_the_remedy() {
    for (line, said) in [
        (
            "version = 1",
            "run.toml:1: `version` is missing: write version = 1 at the top of the file",
        ),
        ("uri = \"n.safetensors\"", "run.toml:2: `network.uri` is missing: "),
        ("uri = \"c.parquet\"", "run.toml:4: `catalogue.uri` is missing: "),
        ("id = \"id\"", "run.toml:4: `catalogue.id` is missing: "),
        ("flux = \"flux\"", "run.toml:4: `catalogue.flux` is missing: "),
        (
            "ivar = \"ivar\"",
            "run.toml:4: `catalogue.sigma` is missing: write sigma = \"<column>\" or ivar = \"<column>\", or exact_inputs = true",
        ),
        (
            "labels = [\"teff\"]",
            "run.toml:4: `catalogue.labels` is missing: the noise comes from held-out residuals",
        ),
        (
            "precision = 0",
            "run.toml:12: `prior.precision` is missing: write a number",
        ),
        ("uri = \"out\"", "run.toml:14: `output.uri` is missing: "),
    ] {
        let error = parse(&with(LEAST, line, "")).unwrap_err();
        assert!(error.starts_with(said), "{error}\nexpected {said}");
    }
    assert!(
        parse("version = 1\n")
            .unwrap_err()
            .contains("`network` is missing: add the table [network]")
    );
}

#[test]
fn a_given_covariance_is_one() {
    let noise = |said: &str| parse(&format!("{LEAST}[noise]\ncovariance = {said}\n"));
    assert_eq!(noise("[[2.0]]").unwrap().noise.covariance.unwrap(), [[2.0]]);
    assert!(
        noise("[[1, 0], [0, 1]]")
            .unwrap_err()
            .contains("expected 1 rows of 1: one a label")
    );
    assert!(noise("[]").unwrap_err().contains("has rows of no numbers"));
    assert!(noise("[[-1]]").unwrap_err().contains("negative variance -1 of label 0"));
    assert!(noise("[[0]]").unwrap_err().contains("is singular"));
    let two = with(LEAST, "labels = [\"teff\"]", "labels = [\"a\", \"b\"]");
    let noise = |said: &str| parse(&format!("{two}[noise]\n{said}\n"));
    assert!(noise("covariance = [[1e4, 50], [50, 1.0]]").is_ok());
    assert!(
        noise("covariance = [[1, 0.1], [0.2, 1]]")
            .unwrap_err()
            .contains("row 1 column 0 is 0.2")
    );
    assert!(
        noise("covariance = [[1, 2], [2, 1]]")
            .unwrap_err()
            .contains("not positive semidefinite")
    );
    assert!(
        noise("covariance = [[1, 1], [1, 1]]")
            .unwrap_err()
            .contains("is singular")
    );
    assert!(
        noise("covariance = [[1, \"a\"], [1, 1]]")
            .unwrap_err()
            .contains("`noise.covariance[0][1]` takes a number")
    );
    let both = noise("from = \"holdout\"\ncovariance = [[1, 0], [0, 1]]");
    assert!(both.unwrap_err().contains("stands beside a covariance"));
    let fixed = noise("covariance = [[1, 0], [0, 1]]\nholdout_fraction = 0").unwrap();
    assert_eq!(fixed.noise.holdout_fraction, 0.0);
    let own = with(
        &two,
        "labels = [\"a\", \"b\"]",
        "labels = [\"a\", \"b\"]\nlabel_errors = [\"c\", \"d\"]",
    );
    assert!(parse(&format!("{own}[noise]\ncovariance = [[1, 1], [1, 1]]\n")).is_ok());
}

#[test]
fn toml_that_is_none_says_where() {
    let error = parse("version = 1\n[network\n").unwrap_err();
    assert!(error.starts_with("run.toml:2: not valid toml: "), "{error}");
    let error = parse("version = 1\nversion = 1\n").unwrap_err();
    assert!(
        error.starts_with("run.toml:2: not valid toml: duplicate key"),
        "{error}"
    );
    let error = RunFile::read(Path::new("no/such/run.toml")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the run file no/such/run.toml");
}

#[test]
fn elements_of_arrays_over_lines_have_their_own() {
    let error = refused(
        "labels = [\"teff\", \"logg\", \"fe_h\"]",
        "labels = [\n  \"teff\",\n  2,\n]",
    );
    let n = line_of("labels = [\"teff\"") + 2;
    assert!(
        error.starts_with(&format!("run.toml:{n}: `catalogue.labels[1]`")),
        "{error}"
    );
}

#[test]
fn a_layers_name_without_quotes_is_told() {
    let unquoted = "structure = \"full\"\n[curvature.layers]\nlayers.4 = \"kfac\"";
    let error = parse(&with(LEAST, "structure = \"full\"", unquoted)).unwrap_err();
    assert!(error.contains("goes in quotes, as in \"layers.4\" = "), "{error}");
}

#[test]
fn a_memory_that_is_no_number_of_bytes_is_refused() {
    for (memory, said) in [
        ("\"lots\"", "expected bytes with a unit, as in \"8 GiB\""),
        ("\"-1 GB\"", "expected bytes with a unit"),
        ("0", "expected an integer of at least 1"),
        ("true", "integer"),
    ] {
        let error = refused(
            "structure = \"kfac\"",
            &format!("structure = \"dual\"\nmemory = {memory}"),
        );
        assert!(error.contains("curvature.memory") && error.contains(said), "{error}");
    }
}

#[test]
fn keys_of_what_is_not_there_are_refused() {
    let file = |structure: &str, more: &str| {
        let text = with(LEAST, "structure = \"full\"", structure);
        parse(&format!("{text}{more}\n"))
    };
    let scratch = "[compute]\nscratch = \"/fast\"";
    for (structure, more, said) in [
        (
            "structure = \"full\"\nmemory = \"1 GiB\"",
            "",
            "`curvature.memory` is of structure = \"auto\" and of layers held as \"dual\", and there is neither: leave it out",
        ),
        (
            "structure = \"full\"",
            scratch,
            "`compute.scratch` is of layers held as \"dual\", and there is none: leave it out",
        ),
        (
            "",
            "[certificate]\nspectra = 0\ncompare = [\"kfac\"]",
            "`certificate.compare` is of the comparison, and with spectra = 0 there is none: leave it out",
        ),
        (
            "",
            "[certificate]\nspectra = 0\nhessian_steps = 5",
            "`certificate.hessian_steps` is of the comparison, and with spectra = 0 there is none: leave it out",
        ),
        (
            "",
            "[certificate]\nspectra = 0\nfull_pass = false\nstars = 5",
            "`certificate.stars` is of what is checked, and with spectra = 0 and full_pass = false nothing is: leave it out",
        ),
    ] {
        let error = file(structure, more).unwrap_err();
        assert!(error.contains(said), "{error}\nexpected {said}");
    }
    for structure in [
        "",
        "structure = \"dual\"\nmemory = 1000",
        "structure = \"kfac\"\nmemory = 1000\n[curvature.layers]\nlast = \"dual\"",
    ] {
        assert!(file(structure, scratch).is_ok(), "{structure}");
    }
}
