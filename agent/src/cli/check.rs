//! `sluice check`: what the agent would say of these files, without an agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::output::{self, Format};
use crate::{
    harmless, l7,
    manifests::{FileContents, Finding, Object, Severity, assemble, folder, read_text, sctp_ports},
    model::{Node, Store},
};

/// Prints every finding. False if one of them is an error.
pub fn check(paths: &[PathBuf], format: Format) -> Result<bool> {
    let mut files = Vec::new();
    for path in paths {
        let error = || format!("cannot read {}", path.display());
        if path.is_dir() {
            files.extend(folder(path).with_context(error)?);
        } else {
            files.push(path.clone());
        }
    }
    let mut contents = Vec::new();
    for file in &files {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        contents.push(read_text(file, &bytes));
    }
    let objects: usize = contents.iter().map(|file| file.objects.len()).sum();
    let (findings, unlooked) = findings(&contents);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    output::print(format, &findings, || {
        let mut text = String::new();
        for finding in &findings {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            text += &format!("{severity}: {}\n", harmless::line(&finding.to_string()));
        }
        let warnings = findings.len() - errors;
        text += &format!("{} files, {objects} objects, {errors} errors, {warnings} warnings\n", files.len());
        if !unlooked.is_empty() {
            let names: Vec<&str> = unlooked.iter().map(String::as_str).collect();
            text += &format!(
                "no Services of {} are among them: whether those that rules name exist was not looked at\n",
                harmless::line(&names.join(", "))
            );
        }
        text
    })?;
    Ok(errors == 0)
}

/// What is wrong in the files and between them, in order; and the namespaces whose Services they do not have.
fn findings(contents: &[FileContents]) -> (Vec<Finding>, BTreeSet<String>) {
    let (changes, mut findings) = assemble(contents.iter(), "");
    findings.extend(sctp_ports(contents.iter(), &changes));
    findings.extend(contents.iter().flat_map(|file| file.findings.iter().cloned()));
    let mut store = Store::new(Node::default());
    changes.into_iter().for_each(|change| store.apply(change));
    let found = l7::offline(&store, Instant::now());
    let mut places = BTreeMap::new();
    for placed in contents.iter().flat_map(|file| &file.objects) {
        if let Object::Rule(kind, name, _) = &placed.object {
            places.entry((*kind, name.clone())).or_insert((placed.file.clone(), placed.line));
        }
    }
    for report in found.reports {
        let Some((file, line)) = places.get(&(report.kind, report.name.clone())) else { continue };
        findings.extend(report.messages.into_iter().map(|message| Finding {
            file: file.clone(),
            line: *line,
            object: format!("{} {}", report.kind.name(), report.name),
            path: message.path,
            severity: match message.severity {
                l7::rules::Severity::Error => Severity::Error,
                l7::rules::Severity::Warning => Severity::Warning,
            },
            message: message.text,
        }));
    }
    findings.sort();
    // What is wrong with a rule by itself was found when its file was read, and again now.
    findings.dedup();
    (findings, found.unlooked)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const RULE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews, namespace: shop}\nspec:\n  hosts: [reviews]\n";
    const SERVICE: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: shop}\nspec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}\n";

    fn check_texts(texts: &[&str]) -> (Vec<String>, BTreeSet<String>) {
        let read = |(i, text): (usize, &&str)| read_text(Path::new(&format!("{i}.yaml")), text.as_bytes());
        let contents: Vec<_> = texts.iter().enumerate().map(read).collect();
        let (found, unlooked) = findings(&contents);
        (found.iter().map(ToString::to_string).collect(), unlooked)
    }

    #[test]
    fn what_is_wrong_between_files_has_the_place_of_the_rule() {
        let to = |destination: &str| format!("{RULE}  http: [{{route: [{{destination: {destination}}}]}}]\n");
        let subsets = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews, namespace: shop}\nspec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}\n";
        let v1 = to("{host: reviews, subset: v1}");
        let at = "0.yaml:1: VirtualService shop/reviews: spec.http[0].route[0].destination: ";
        let host = "reviews.shop.svc.cluster.local";
        let nothing = String::new();
        for (case, rule, others, want) in [
            ("fine", &v1, vec![SERVICE, subsets], nothing.clone()),
            (
                "subset",
                &v1,
                vec![SERVICE],
                format!("{at}no DestinationRule for {host} has subset \"v1\": requests get 503"),
            ),
            (
                "subset, without Services",
                &v1,
                vec![],
                format!("{at}no DestinationRule for {host} has subset \"v1\": requests get 503"),
            ),
            (
                "port",
                &to("{host: reviews, port: {number: 81}}"),
                vec![SERVICE],
                format!("{at}Service {host} has no port 81: requests get 503"),
            ),
            (
                "service",
                &to("{host: nobody}"),
                vec![SERVICE],
                format!("{at}there is no Service nobody.shop.svc.cluster.local: requests get 503"),
            ),
            (
                "service of a namespace without any here",
                &to("{host: nobody.other.svc.cluster.local}"),
                vec![SERVICE],
                nothing.clone(),
            ),
            ("service, without Services", &to("{host: nobody}"), vec![], nothing.clone()),
            (
                "outside, without Services",
                &to("{host: api.example.com}"),
                vec![],
                format!("{at}there is no Service api.example.com: requests get 503"),
            ),
        ] {
            let texts: Vec<&str> = [rule.as_str()].into_iter().chain(others).collect();
            let (found, _) = check_texts(&texts);
            assert_eq!(found.join("\n"), want, "{case}");
        }
    }

    #[test]
    fn what_was_not_looked_at_is_said() {
        let rule =
            format!("{RULE}  http: [{{route: [{{destination: {{host: a.other.svc.cluster.local}}}}]}}]\n");
        assert_eq!(check_texts(&[&rule]).1, ["other", "shop"].map(str::to_owned).into());
        assert_eq!(check_texts(&[&rule, SERVICE]).1, ["other".to_owned()].into());
    }
}
