//! The processes of a Slurm step, from its environment: one process a task, tasks in blocks on the nodes of the list.

use crate::exit_code::CliError;

/// Most nodes that a list may expand to: a range that is longer is a mistake.
const MOST: usize = 100_000;

/// What Slurm says about a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlurmStep {
    /// `SLURM_STEP_NODELIST`, or else `SLURM_JOB_NODELIST`.
    pub nodes: Option<String>,
    /// `SLURM_STEP_TASKS_PER_NODE`, or else `SLURM_TASKS_PER_NODE`: `2(x3),1`.
    pub tasks_per_node: Option<String>,
    /// `SLURM_STEP_NUM_TASKS`, or else `SLURM_NTASKS`.
    pub tasks: Option<usize>,
    /// `SLURM_PROCID`.
    pub process: Option<usize>,
    /// `SLURM_NODEID`: the place of this process's node in the list.
    pub node: Option<usize>,
    /// Variables that should hold a number and do not, as `SLURM_NTASKS=four`.
    pub unreadable: Vec<String>,
}

impl SlurmStep {
    /// Refuses a step whose numbers are none.
    ///
    /// # Errors
    /// A variable should hold a number and does not.
    pub fn check(&self) -> Result<(), CliError> {
        match self.unreadable.first() {
            Some(variable) => Err(wrong(&format!("{variable} is no number"))),
            None => Ok(()),
        }
    }

    /// `host:port` of every task, the tasks of one node at ports that follow one another.
    ///
    /// # Errors
    /// There is no step, or its lists cannot be understood.
    pub fn addresses(&self, first_port: u16) -> Result<Vec<String>, CliError> {
        let unset = |name: &str| wrong(&format!("{name} is not set: start the processes with srun"));
        let nodes = self.nodes.as_ref().ok_or_else(|| unset("SLURM_JOB_NODELIST"))?;
        let tasks = self.tasks.ok_or_else(|| unset("SLURM_NTASKS"))?;
        let nodes = expand(nodes).map_err(|reason| wrong(&format!("the list of nodes `{nodes}`: {reason}")))?;
        let on_node = match &self.tasks_per_node {
            Some(said) => counts(said).map_err(|reason| wrong(&format!("tasks per node `{said}`: {reason}")))?,
            None => vec![tasks.div_ceil(nodes.len().max(1)); nodes.len()],
        };
        let mut addresses: Vec<String> = Vec::with_capacity(tasks);
        for (place, (node, tasks)) in nodes.iter().zip(on_node).enumerate() {
            for task in 0..tasks {
                if self.process == Some(addresses.len()) && self.node.is_some_and(|own| own != place) {
                    return Err(wrong(&format!(
                        "task {} is not on {node}, where it is if tasks follow one another on each node: start them with srun --distribution=block",
                        addresses.len()
                    )));
                }
                let port = u16::try_from(task).ok().and_then(|task| first_port.checked_add(task));
                let port =
                    port.ok_or_else(|| wrong(&format!("{tasks} tasks on {node} need more ports than there are")))?;
                addresses.push(format!("{node}:{port}"));
            }
        }
        if addresses.len() < tasks {
            return Err(wrong(&format!(
                "{tasks} tasks, but the nodes have places for {}",
                addresses.len()
            )));
        }
        addresses.truncate(tasks);
        Ok(addresses)
    }
}

fn wrong(what: &str) -> CliError {
    CliError::Arguments(format!("--slurm: {what}"))
}

/// The hosts of a list in Slurm's own notation: `gpu-[01-03,7],login1`, `r[1-2]n[0-3]`.
///
/// # Errors
/// In words.
pub fn expand(list: &str) -> Result<Vec<String>, String> {
    let mut hosts = Vec::new();
    for pattern in split(list)? {
        let mut names = vec![String::new()];
        let mut rest = pattern;
        while let Some((before, after)) = rest.split_once('[') {
            let (ranges, after) = after.split_once(']').ok_or("a [ without ]")?;
            let numbers = numbers(ranges)?;
            if names.len().saturating_mul(numbers.len()) > MOST {
                return Err(format!("more than {MOST} hosts"));
            }
            names = names
                .iter()
                .flat_map(|name| numbers.iter().map(move |number| format!("{name}{before}{number}")))
                .collect();
            rest = after;
        }
        names.iter_mut().for_each(|name| name.push_str(rest));
        hosts.append(&mut names);
    }
    match hosts.is_empty() || hosts.iter().any(|host| host.is_empty() || host.contains([']', ' '])) {
        true => Err("not a list of hosts".into()),
        false => Ok(hosts),
    }
}

/// At the commas that are outside brackets.
fn split(list: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut is_inside) = (Vec::new(), 0, false);
    for (at, c) in list.char_indices() {
        match (c, is_inside) {
            ('[', true) => return Err("a [ in brackets".into()),
            ('[', false) => is_inside = true,
            (']', _) => is_inside = false,
            (',', false) => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    Ok(parts)
}

/// `01-03,7`: a range keeps the width of its first number.
fn numbers(ranges: &str) -> Result<Vec<String>, String> {
    let number = |text: &str| -> Result<usize, String> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let parsed = text.parse().ok().filter(|_| digits);
        parsed.ok_or_else(|| format!("`{text}` is no number"))
    };
    let mut all = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (from, to) = (number(first)?, number(last)?);
        if to < from {
            return Err(format!("the range {range} runs backwards"));
        }
        if to - from >= MOST {
            return Err(format!("more than {MOST} hosts"));
        }
        let width = first.len();
        all.extend((from..=to).map(|n| format!("{n:0width$}")));
    }
    Ok(all)
}

/// `2(x3),1` as 2, 2, 2, 1.
fn counts(said: &str) -> Result<Vec<usize>, String> {
    let mut all = Vec::new();
    for part in said.split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')').ok_or("a ( without )")?),
            None => (part, "1"),
        };
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("`{text}` is no number"));
        let (count, times) = (number(count)?, number(times)?);
        if times > MOST {
            return Err(format!("more than {MOST} nodes"));
        }
        all.extend(std::iter::repeat_n(count, times));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `scontrol show hostnames` prints for each.
    #[test]
    fn lists_expand_as_slurm_expands_them() {
        for (list, hosts) in [
            ("login1", "login1"),
            ("a,b,c", "a b c"),
            ("gpu-[01-03,7],login1", "gpu-01 gpu-02 gpu-03 gpu-7 login1"),
            ("n[9-11]", "n9 n10 n11"),
            ("n[009-011]", "n009 n010 n011"),
            (
                "r[1-2]n[0-1].cluster",
                "r1n0.cluster r1n1.cluster r2n0.cluster r2n1.cluster",
            ),
            ("cn[5],cn[7-8]-ib", "cn5 cn7-ib cn8-ib"),
        ] {
            assert_eq!(expand(list).unwrap().join(" "), hosts, "{list}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (list, said) in [
            ("", "not a list"),
            ("a,,b", "not a list"),
            ("n[1-", "without ]"),
            ("n1]", "not a list"),
            ("n[[1]]", "in brackets"),
            ("n[3-1]", "backwards"),
            ("n[x]", "`x` is no number"),
            ("n[]", "is no number"),
            ("n[+1]", "is no number"),
            ("n[0-99999999]", "more than"),
            ("n[0-999]m[0-999]", "more than"),
        ] {
            let error = expand(list).unwrap_err();
            assert!(error.contains(said), "{list}: {error}");
        }
    }

    fn step(nodes: &str, tasks_per_node: Option<&str>, tasks: usize) -> SlurmStep {
        SlurmStep {
            nodes: Some(nodes.to_owned()),
            tasks_per_node: tasks_per_node.map(str::to_owned),
            tasks: Some(tasks),
            process: Some(0),
            node: None,
            unreadable: Vec::new(),
        }
    }

    #[test]
    fn tasks_of_one_node_listen_at_ports_that_follow() {
        let one_each = step("n[1-3]", Some("1(x3)"), 3).addresses(2101).unwrap();
        assert_eq!(one_each, ["n1:2101", "n2:2101", "n3:2101"]);
        let uneven = step("n[1-3]", Some("2(x2),1"), 5).addresses(2101).unwrap();
        assert_eq!(uneven, ["n1:2101", "n1:2102", "n2:2101", "n2:2102", "n3:2101"]);
        assert_eq!(step("a,b", None, 3).addresses(9).unwrap(), ["a:9", "a:10", "b:9"]);
    }

    /// `--distribution=cyclic`: task 1 is the first of the second node, and would be looked for on the first.
    #[test]
    fn a_task_on_another_node_than_the_list_has_it_is_refused() {
        let on = |process: usize, node: usize| {
            let step = step("a,b", Some("2(x2)"), 4);
            let (process, node) = (Some(process), Some(node));
            SlurmStep { process, node, ..step }.addresses(2101)
        };
        for (process, node) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
            assert_eq!(on(process, node).unwrap().len(), 4);
        }
        let error = on(1, 1).unwrap_err().to_string();
        assert!(
            error.contains("task 1 is not on a") && error.contains("--distribution=block"),
            "{error}"
        );
        assert!(on(2, 0).is_err());
    }

    #[test]
    fn no_step_and_too_few_places_are_said() {
        let error = SlurmStep::default().addresses(1).unwrap_err().to_string();
        assert!(
            error.contains("SLURM_JOB_NODELIST is not set") && error.contains("srun"),
            "{error}"
        );
        let error = step("n1", Some("2"), 3).addresses(1).unwrap_err().to_string();
        assert!(error.contains("places for 2"), "{error}");
        let error = step("n1", Some("2(x"), 2).addresses(1).unwrap_err().to_string();
        assert!(error.contains("without )"), "{error}");
        assert!(step("n1", Some("2"), 2).addresses(65_535).is_err());
    }
}
