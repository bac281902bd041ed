//! The environment variables that matter; nothing below this crate reads any.

use std::ffi::OsString;

use crate::slurm::SlurmStep;

/// What the environment says.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `AWS_*` that are not empty, in the order of their names: credentials and endpoints of the object stores. Values are secrets.
    pub aws: Vec<(String, String)>,
    /// Names of `AWS_*` variables whose values are not text.
    pub unreadable: Vec<String>,
    /// `FISHERFLOW_CLUSTER_SECRET`: what the processes of a cluster prove to one another that they know.
    pub cluster_secret: Option<OsString>,
    /// `JOB_COMPLETION_INDEX`: which of its pods a Job of Kubernetes started this process in.
    pub completion_index: Option<usize>,
    /// `SLURM_*`: the step of Slurm that this process is a task of.
    pub slurm: SlurmStep,
    /// `NO_COLOR` is set and not empty (no-color.org).
    pub no_color: bool,
    /// `FISHERFLOW_LOG`: what to log, as `fisherflow_store=debug,info`; goes before `-v` and `-q`.
    pub log: Option<String>,
}

impl Environment {
    /// The environment of this process.
    pub fn read() -> Self {
        Self::of(std::env::vars_os())
    }

    /// The environment that these variables make.
    pub fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut read = Self::default();
        let mut of_job = SlurmStep::default();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if name.starts_with("AWS_") {
                match value.into_string() {
                    // As from an entry of a ConfigMap that says nothing.
                    Ok(value) if value.is_empty() => {}
                    Ok(value) => read.aws.push((name, value)),
                    Err(_) => read.unreadable.push(name),
                }
            } else if name == "FISHERFLOW_CLUSTER_SECRET" {
                read.cluster_secret = Some(value);
            } else if name == "JOB_COMPLETION_INDEX" {
                read.completion_index = value.to_str().and_then(|value| value.parse().ok());
            } else if name.starts_with("SLURM_") {
                let value = value.into_string().ok();
                let number = |step: &mut SlurmStep| {
                    let value = value.as_deref()?;
                    let number = value.parse().ok();
                    if number.is_none() {
                        step.unreadable.push(format!("{name}={value}"));
                    }
                    number
                };
                match name.as_str() {
                    "SLURM_PROCID" => read.slurm.process = number(&mut read.slurm),
                    "SLURM_NODEID" => read.slurm.node = number(&mut read.slurm),
                    "SLURM_STEP_NODELIST" => read.slurm.nodes = value,
                    "SLURM_STEP_TASKS_PER_NODE" => read.slurm.tasks_per_node = value,
                    "SLURM_STEP_NUM_TASKS" => read.slurm.tasks = number(&mut read.slurm),
                    "SLURM_JOB_NODELIST" => of_job.nodes = value,
                    "SLURM_TASKS_PER_NODE" => of_job.tasks_per_node = value,
                    "SLURM_NTASKS" => of_job.tasks = number(&mut of_job),
                    _ => {}
                }
            } else if name == "NO_COLOR" {
                read.no_color = !value.is_empty();
            } else if name == "FISHERFLOW_LOG" {
                read.log = value.into_string().ok().filter(|v| !v.is_empty());
            }
        }
        let step = &mut read.slurm;
        if step.nodes.is_none() {
            (step.nodes, step.tasks_per_node) = (of_job.nodes, of_job.tasks_per_node);
        }
        step.tasks = step.tasks.or(of_job.tasks);
        step.unreadable.append(&mut of_job.unreadable);
        read.aws.sort();
        read.unreadable.sort();
        read
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.aws.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Environment")
            .field("aws", &names)
            .field("unreadable", &self.unreadable)
            .field("no_color", &self.no_color)
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_slurm_goes_before_its_job() {
        let of =
            |variables: &[(&str, &str)]| Environment::of(variables.iter().map(|(k, v)| (k.into(), v.into()))).slurm;
        let job = [
            ("SLURM_JOB_NODELIST", "n[1-4]"),
            ("SLURM_TASKS_PER_NODE", "1(x4)"),
            ("SLURM_NTASKS", "4"),
        ];
        let of_job = of(&job);
        assert_eq!(of_job.nodes.as_deref(), Some("n[1-4]"));
        assert_eq!((of_job.tasks, of_job.process), (Some(4), None));
        let step = [
            ("SLURM_STEP_NODELIST", "n[1-2]"),
            ("SLURM_STEP_TASKS_PER_NODE", "1(x2)"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("SLURM_PROCID", "1"),
        ];
        let of_step = of(&[&job[..], &step].concat());
        assert_eq!(of_step.nodes.as_deref(), Some("n[1-2]"));
        assert_eq!(of_step.tasks_per_node.as_deref(), Some("1(x2)"));
        assert_eq!((of_step.tasks, of_step.process), (Some(2), Some(1)));
    }

    #[test]
    fn takes_what_matters_and_shows_no_secret() {
        let read = Environment::of(
            [
                ("AWS_SECRET_ACCESS_KEY", "hush"),
                ("AWS_REGION", "eu-west-1"),
                ("FISHERFLOW_CLUSTER_SECRET", "hush too"),
                ("PATH", "/bin"),
                ("NO_COLOR", ""),
                ("FISHERFLOW_LOG", "debug"),
            ]
            .map(|(k, v)| (k.into(), v.into())),
        );
        let names: Vec<&str> = read.aws.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(names, ["AWS_REGION", "AWS_SECRET_ACCESS_KEY"]);
        assert!(!read.no_color);
        assert_eq!(read.cluster_secret, Some("hush too".into()));
        assert_eq!(read.log.as_deref(), Some("debug"));
        assert!(!format!("{read:?}").contains("hush"));
    }
}
