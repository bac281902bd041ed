//! Questions to a complete output.

use std::fmt;

use fisherflow_dataflow::{Peer, Reduction};

use super::cluster::threads;
use super::{Place, current, object_store};
use crate::args::{ExportArgs, InverseArgs, LossReduction, ReportArgs};
use crate::environment::Environment;
use crate::exit_code::CliError;
use crate::weights::Weights;

/// A question about a layer's inverse.
#[derive(Debug)]
pub struct Query {
    /// The output, and how to reach it and the files below.
    pub output: Place,
    /// Name of a layer, or of a block.
    pub layer: String,
    /// The question.
    pub question: Question,
    /// The URI of a file for the answer.
    pub out: Option<String>,
    /// Whether a file that is there may be lost.
    pub overwrite: bool,
    /// Whether JSON is printed.
    pub json: bool,
    /// Threads of the products.
    pub threads: usize,
}

/// What an output holds, and its page of plots.
#[derive(Debug)]
pub struct Report {
    /// The output, and how to reach it and the file below.
    pub output: Place,
    /// The URI of a file for the page; `None`: it goes into the output.
    pub out: Option<String>,
    /// Whether a file that is there may be lost.
    pub overwrite: bool,
}

/// What is asked.
#[derive(Debug)]
pub enum Question {
    /// Elements.
    Elements {
        /// Of these weights,
        rows: Weights,
        /// with these.
        cols: Weights,
    },
    /// The diagonal.
    Diagonal,
    /// `P^-1 v`, v from a file.
    Solve(String),
    /// `v^T P^-1 v`, v from a file.
    Quadratic(String),
}

/// The Hessian in another program's convention.
#[derive(Debug)]
pub struct Export {
    /// The output, and how to reach it and the file.
    pub output: Place,
    /// Whose convention.
    pub peer: Peer,
    /// Of which loss.
    pub reduction: Reduction,
    /// The URI of the file.
    pub out: String,
    /// Whether a file that is there may be lost.
    pub overwrite: bool,
    /// Threads of the products.
    pub threads: usize,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elements { rows, cols } => write!(f, "elements of P^-1: rows {rows}, columns {cols}"),
            Self::Diagonal => f.write_str("the diagonal of P^-1"),
            Self::Solve(uri) => write!(f, "P^-1 v, v = {uri}"),
            Self::Quadratic(uri) => write!(f, "v^T P^-1 v, v = {uri}"),
        }
    }
}

/// Resolves a question.
///
/// # Errors
/// The environment or the number of threads is wrong.
pub fn query(args: InverseArgs, environment: &Environment) -> Result<Query, CliError> {
    let folder = current()?;
    let locate = |uri: &String| folder.locate(uri);
    let (solve, quadratic) = (args.solve.as_ref().map(locate), args.quadratic.as_ref().map(locate));
    let out = args.out.as_ref().map(locate);
    let uri = folder.locate(&args.output);
    let uris: Vec<&str> = [Some(&uri), solve.as_ref(), quadratic.as_ref(), out.as_ref()]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let store = object_store::options(environment, &uris)?;
    let question = match (args.rows, solve, quadratic) {
        (Some(rows), _, _) => Question::Elements {
            cols: args.cols.unwrap_or_else(|| rows.clone()),
            rows,
        },
        (None, Some(v), _) => Question::Solve(v),
        (None, None, Some(v)) => Question::Quadratic(v),
        (None, None, None) => Question::Diagonal,
    };
    Ok(Query {
        output: Place { uri, store },
        layer: args.layer,
        question,
        out,
        overwrite: args.overwrite,
        json: args.json,
        threads: threads(args.threads)?,
    })
}

/// Resolves an export.
///
/// # Errors
/// The environment or the number of threads is wrong.
pub fn export(args: &ExportArgs, environment: &Environment) -> Result<Export, CliError> {
    let folder = current()?;
    let (uri, out) = (folder.locate(&args.output), folder.locate(&args.out));
    let store = object_store::options(environment, &[&uri, &out])?;
    Ok(Export {
        output: Place { uri, store },
        peer: args.to,
        reduction: match args.reduction {
            Some(LossReduction::Sum) => Reduction::Sum,
            Some(LossReduction::Mean) => Reduction::Mean,
            None => args.to.reductions()[0],
        },
        out,
        overwrite: args.overwrite,
        threads: threads(args.threads)?,
    })
}

/// Resolves where a page of plots goes.
///
/// # Errors
/// The environment is wrong.
pub fn report(args: &ReportArgs, environment: &Environment) -> Result<Report, CliError> {
    let folder = current()?;
    let (uri, out) = (
        folder.locate(&args.uri),
        args.out.as_ref().map(|out| folder.locate(out)),
    );
    let uris: Vec<&str> = std::iter::once(&uri).chain(&out).map(String::as_str).collect();
    let store = object_store::options(environment, &uris)?;
    Ok(Report {
        output: Place { uri, store },
        out,
        overwrite: args.overwrite,
    })
}
