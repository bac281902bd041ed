"""Kubernetes manifests (files of YAML documents) against the schemas of Kubernetes and of JobSet, and against what they must say to one another.

Prints the pods' arguments and what was checked, as JSON. Fails with the first thing that is wrong.
"""

import copy
import json
import sys

import kubernetes_validate
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

VERSIONS = ["1.31", "1.34", "1.37"]
# What the schemas have as free text.
ENUMS = {
    "completionMode": {"Indexed"},
    "concurrencyPolicy": {"Forbid"},
    "restartPolicy": {"Never"},
    "podReplacementPolicy": {"Failed"},
    "operator": {"In"},
    "action": {"FailJob", "Ignore", "FailJobSet"},
    "restartStrategy": {"BlockingRecreate"},
    "protocol": {"TCP"},
    "clusterIP": {"None"},
}


def enums(value, where):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ENUMS and isinstance(inner, str):
                assert inner in ENUMS[key], f"{where}.{key}: {inner}"
            enums(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            enums(inner, f"{where}[{i}]")


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def job_set(document):
    """JobSet is no part of Kubernetes: its own model must know every field, and Kubernetes every field of its jobs."""
    known = without_nulls(JobsetV1alpha2JobSet.from_dict(copy.deepcopy(document)).to_dict())
    for replicated in known["spec"]["replicatedJobs"]:
        replicated.pop("template")
    templates = [replicated.pop("template") for replicated in document["spec"]["replicatedJobs"]]
    assert known == document, f"JobSet does not know all of\n{document}\nbut only\n{known}"
    for template in templates:
        validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": template["metadata"] | {"name": "a"}, "spec": template["spec"]})
    (template,) = templates
    return template["spec"]


def validate(document):
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


def refuses(check, document, change):
    """That a check sees a mistake."""
    document = copy.deepcopy(document)
    change(document)
    try:
        check(document)
    except Exception:
        return
    raise AssertionError(f"{check.__name__} sees no mistake in {document}")


def rule(job, code):
    """What becomes of a pod that ends with an exit code."""
    for rule in job["podFailurePolicy"]["rules"]:
        if code in rule.get("onExitCodes", {}).get("values", []):
            return rule["action"]
    return "Count"


def main(paths):
    documents = []
    for path in paths:
        with open(path) as file:
            documents += [document for document in yaml.safe_load_all(file) if document]
    pods, jobs, labels = [], {}, {"app.kubernetes.io/name": "fisherflow"}
    for document in documents:
        kind = document["kind"]
        enums(document, kind)
        if kind == "JobSet":
            refuses(job_set, document, lambda d: d["spec"].update(failurPolicy={}))
            refuses(job_set, document, lambda d: d["spec"]["replicatedJobs"][0]["template"]["spec"].update(paralelism=1))
            job = job_set(copy.deepcopy(document))
        elif kind == "Kustomization":
            continue
        else:
            validate(document)
            refuses(validate, document, lambda d: d.update(spek={}))
            job = {"Job": lambda: document["spec"], "CronJob": lambda: document["spec"]["jobTemplate"]["spec"]}.get(kind, lambda: None)()
        if kind == "Service":
            assert document["spec"]["selector"] == labels and document["spec"]["publishNotReadyAddresses"] is True
        if kind == "NetworkPolicy":
            ingress, metrics = document["spec"]["ingress"]
            assert document["spec"]["podSelector"]["matchLabels"] == labels
            assert [peer["podSelector"]["matchLabels"] for peer in ingress["from"]] == [labels]
            assert [port["port"] for port in ingress["ports"]] == [2101]
            assert [port["port"] for port in metrics["ports"]] == [9464] and "podSelector" not in metrics["from"][0]
        if job is None:
            continue
        pod = job["template"]
        (container,) = pod["spec"]["containers"]
        assert pod["metadata"]["labels"] == labels and pod["spec"]["subdomain"] == "fisherflow"
        assert job["completions"] == job["parallelism"], "all processes at once"
        assert f"--processes={job['completions']}" in container["args"], container["args"]
        assert "--metrics=0.0.0.0:9464" in container["args"] and pod["metadata"]["annotations"]["prometheus.io/port"] == "9464"
        assert [port["containerPort"] for port in container["ports"]] == [2101, 9464]
        assert [rule(job, code) for code in (2, 3)] == ["FailJob"] * 2
        lost = rule(job, 75)
        assert lost == ("Count" if kind == "JobSet" else "Ignore"), lost
        assert container["resources"]["limits"]["cpu"] == container["resources"]["requests"]["cpu"]
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert pod["spec"]["terminationGracePeriodSeconds"] > 25, "longer than a drain"
        secured = container["securityContext"]
        assert secured["readOnlyRootFilesystem"] and not secured["allowPrivilegeEscalation"]
        assert secured["capabilities"]["drop"] == ["ALL"] and pod["spec"]["securityContext"]["runAsNonRoot"]
        keys = {variable["name"]: variable.get("value") for variable in container["env"]}["AWS_SHARED_CREDENTIALS_FILE"]
        (folder,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "s3-keys"]
        assert keys == f"{folder}/credentials" and all("secretRef" not in source for source in container["envFrom"]), "no keys in the environment"
        (folder,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "cluster-secret"]
        (secret,) = [volume["secret"] for volume in pod["spec"]["volumes"] if volume["name"] == "cluster-secret"]
        assert f"--secret-file={folder}/secret" in container["args"] and not secret.get("optional"), "no processes without their secret"
        assert all("secretKeyRef" not in variable.get("valueFrom", {}) for variable in container["env"]), "no secret in the environment"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
        jobs.setdefault(kind, []).append(container["args"])
        pods.append((kind, job["completions"], pod))
    same = {json.dumps(pod, sort_keys=True) for _, completions, pod in pods if completions == 4}
    assert len(same) <= 1, "Job, CronJob and JobSet run the same pod"
    print(json.dumps({"documents": [document["kind"] for document in documents], "arguments": jobs}))


main(sys.argv[1:])
