//! What the user is told when a model cannot be had: one sentence, and the way out.

use super::{
    env::{Hub, HubEnv},
    failure::Failure,
    http::Http,
    names::closest,
};
use crate::{
    error::{Error, Result, gigabytes},
    fs::free_space,
};
use serde_json::Value;
use std::path::Path;

/// What was asked for when it failed.
pub enum Asked<'a> {
    /// The list of files, and with it whether there is such a model at all.
    Listing,
    /// One of its files.
    File(&'a str),
}

/// The words for one model.
pub struct Words<'a> {
    name: &'a str,
    revision: &'a str,
    env: &'a HubEnv,
    http: Option<&'a Http>,
}

impl<'a> Words<'a> {
    /// Before there is a way to the hub.
    pub fn new(name: &'a str, revision: &'a str, env: &'a HubEnv) -> Self {
        Self { name, revision, env, http: None }
    }

    /// With a way to ask the hub what there is instead.
    pub fn over(self, http: &'a Http) -> Self {
        Self { http: Some(http), ..self }
    }

    /// The sentence for a failed request.
    pub fn failed(&self, asked: &Asked<'_>, failure: &Failure) -> Error {
        match failure {
            Failure::Local(err) => self.local(err),
            Failure::Token => self.no_token(&failure.reason()),
            Failure::Status { code: Some("GatedRepo"), .. } => self.gated(),
            failure if failure.is_of_storage() => self.no_network(asked, &failure.reason()),
            Failure::Status { status: 403, .. } => self.gated(),
            Failure::Status { code, status: 401 | 404, .. } => match asked {
                Asked::File(file) if *code == Some("EntryNotFound") => self.lacks(file),
                _ => self.absent(failure),
            },
            Failure::Damaged(reason) => self.wrong(asked, reason, ("nothing of it was kept", "损坏的内容已删除")),
            Failure::NotTheFile(reason) => self.wrong(
                asked,
                reason,
                ("nothing of that was taken, what came before is kept", "该内容未被采用，此前已下载的部分会保留"),
            ),
            Failure::NotAHub(reason) => self.no_hub(asked, reason),
            Failure::Status { .. } | Failure::Unreachable(_) | Failure::Broken(_) => {
                self.no_network(asked, &failure.reason())
            }
        }
    }

    /// A model that is complete by its list, and not by its files.
    pub fn damaged(&self, missing: &[String], folder: &Path) -> Error {
        let folder = folder.display();
        Error::input(format!("{}: damaged after the download: {}", self.name, missing.join(", ")))
            .hint(format!("delete {folder} and start again"))
            .hint_zh(format!("请删除 {folder} 后重新运行"))
    }

    /// Errors: less than `need` bytes are free where `root` lies.
    pub fn refuse_full_disk(&self, root: &Path, need: u64) -> Result<()> {
        match free_space(root).filter(|free| *free < need) {
            Some(free) => Err(self.full(root, need, free)),
            None => Ok(()),
        }
    }

    fn full(&self, root: &Path, need: u64, free: u64) -> Error {
        let (root, need, free) = (root.display(), gigabytes(need), gigabytes(free));
        Error::input(format!("{}: {need} are to be downloaded to {root}, where {free} are free", self.name))
            .hint("make room, or choose `cache_dir` (or HF_HOME) on another disk; what has arrived is kept")
            .hint_zh("请腾出空间，或将 `cache_dir`（或 HF_HOME）设到其他磁盘；已下载的部分会保留")
    }

    fn local(&self, err: &Error) -> Error {
        let told = Error::input(format!("{}: {err}", self.name));
        match (err.hint_text(false), err.hint_text(true)) {
            (Some(en), Some(zh)) => told.hint(en).hint_zh(zh),
            _ => told,
        }
    }

    fn what(&self, asked: &Asked<'_>) -> String {
        match asked {
            Asked::Listing => "the list of files".into(),
            Asked::File(file) => format!("`{file}`"),
        }
    }

    fn cannot(&self, asked: &Asked<'_>, reason: &str) -> Error {
        let endpoint = self.env.shown_endpoint();
        Error::input(format!("{}: cannot get {} from {endpoint}: {reason}", self.name, self.what(asked)))
    }

    fn no_network(&self, asked: &Asked<'_>, reason: &str) -> Error {
        let (en, zh) = elsewhere(self.name, self.env.hub);
        let (other, other_zh) = match self.env.hub {
            Hub::ModelScope => {
                ("unset USE_MODELSCOPE_HUB to ask Hugging Face", "取消 USE_MODELSCOPE_HUB 以改用 Hugging Face")
            }
            _ => (
                "set HF_ENDPOINT to a mirror (such as https://hf-mirror.com), or USE_MODELSCOPE_HUB=1",
                "将 HF_ENDPOINT 设为镜像（如 https://hf-mirror.com），或设 USE_MODELSCOPE_HUB=1",
            ),
        };
        self.cannot(asked, reason)
            .hint(format!("start again, what has arrived is kept; or {other}; or {en}"))
            .hint_zh(format!("请重新运行，已下载的部分会保留；或{other_zh}；或{zh}"))
    }

    fn no_hub(&self, asked: &Asked<'_>, reason: &str) -> Error {
        let endpoint = match self.env.hub {
            Hub::ModelScope => "MODELSCOPE_ENDPOINT",
            _ => "HF_ENDPOINT",
        };
        self.cannot(asked, reason)
            .hint(format!("{endpoint} must be the address of a hub or of a mirror, and HTTPS_PROXY or ALL_PROXY that of a proxy; the page of a proxy or of a hotel's network may answer instead"))
            .hint_zh(format!("{endpoint} 必须指向模型站点或其镜像，HTTPS_PROXY 或 ALL_PROXY 须为代理地址；也可能是代理或网络登录页面拦截了请求"))
    }

    fn no_token(&self, reason: &str) -> Error {
        let places = match self.env.hub {
            Hub::ModelScope => "MODELSCOPE_API_TOKEN, `ms_hub_token`",
            _ => "HF_TOKEN, `hf_hub_token`, $HF_HOME/token",
        };
        Error::input(format!("{}: {reason}", self.name))
            .hint(format!("copy it again, without blanks, quotes or line breaks, to where it was given ({places}); public models need none"))
            .hint_zh(format!("请重新复制令牌到原处（{places}），不要带空格、引号或换行；公开模型无需令牌"))
    }

    /// `kept`: what became of the bytes.
    fn wrong(&self, asked: &Asked<'_>, reason: &str, kept: (&str, &str)) -> Error {
        let (en, zh) = elsewhere(self.name, self.env.hub);
        Error::input(format!(
            "{}: {} came damaged from {}: {reason}",
            self.name,
            self.what(asked),
            self.env.shown_endpoint()
        ))
        .hint(format!(
            "{}: start again; if it happens again a proxy or mirror changes the bytes, use another one, or {en}",
            kept.0
        ))
        .hint_zh(format!("{}，请重新运行；若再次出现，说明代理或镜像改动了内容，请更换，或{zh}", kept.1))
    }

    fn lacks(&self, file: &str) -> Error {
        Error::input(format!("{}: `{file}` is in the list of files, and is not there", self.name))
            .hint("its owner may be changing it: start again in a while, or name a commit in `model_revision`")
            .hint_zh("仓库可能正在更新：请稍后重试，或在 `model_revision` 中写明提交")
    }

    fn gated(&self) -> Error {
        let (endpoint, name) = (self.env.shown_endpoint(), self.name);
        let (variable, page) = match self.env.hub {
            Hub::ModelScope => ("MODELSCOPE_API_TOKEN", format!("{endpoint}/models/{name}")),
            _ => ("HF_TOKEN", format!("{endpoint}/{name}")),
        };
        let error = Error::input(format!("{name}: its owner lets only those download it who were given access"));
        match self.http.is_some_and(Http::has_token) {
            true => error
                .hint(format!("ask for access at {page} with the account of the token that was sent, or set {variable} to another one"))
                .hint_zh(format!("请用该令牌所属的账号在 {page} 申请访问权限，或为 {variable} 换一个令牌")),
            false => error
                .hint(format!("ask for access at {page}, then put a token of that account into {variable}"))
                .hint_zh(format!("请先在 {page} 申请访问权限，再把该账号的令牌放入 {variable}")),
        }
    }

    /// No such model or revision, or one that is shown to some only: the hub says the same of both.
    fn absent(&self, failure: &Failure) -> Error {
        let (endpoint, name) = (self.env.shown_endpoint(), self.name);
        let revisions = self.revisions();
        if !revisions.is_empty() {
            let shown = revisions.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
            return Error::input(format!("{name} has no branch, tag or commit `{}`", self.revision))
                .hint(format!("set `model_revision` to one of: {shown}"))
                .hint_zh(format!("请将 `model_revision` 设为以下之一：{shown}"));
        }
        let has_token = self.http.is_some_and(Http::has_token);
        if has_token && matches!(failure, Failure::Status { status: 401, code: None, .. }) {
            return Error::input(format!("{name}: {endpoint} does not accept the token"))
                .hint("it may have been revoked or cut off: make a new one; public models need none")
                .hint_zh("令牌可能已失效或不完整：请重新生成；公开模型无需令牌");
        }
        let near = self.nearest();
        let (like, like_zh) = match near.is_empty() {
            true => ("check the name, capitals too.".to_owned(), "请检查模型名（区分大小写）。".to_owned()),
            false => (format!("did you mean {}?", near.join(", ")), format!("是否想写 {}？", near.join("、"))),
        };
        let variable = if self.env.hub == Hub::ModelScope { "MODELSCOPE_API_TOKEN" } else { "HF_TOKEN" };
        let (private, private_zh) = match has_token {
            true => {
                ("A private one opens only to a token of its owner".into(), "私有模型只对其所有者的令牌开放".into())
            }
            false => (format!("A private one needs {variable}"), format!("私有模型需要设置 {variable}")),
        };
        Error::input(format!("{name}: {endpoint} has no such model, or shows it to some only"))
            .hint(format!("{like} {private}; a local folder is written `./folder`"))
            .hint_zh(format!("{like_zh}{private_zh}；本地文件夹请写成 `./folder`"))
    }

    /// Branches and tags of the model; none where it is not shown to us.
    fn revisions(&self) -> Vec<String> {
        let (endpoint, name) = (&self.env.endpoint, self.name);
        let names = |list: &Value, key: &str| -> Vec<String> {
            list.as_array().into_iter().flatten().filter_map(|item| item[key].as_str().map(shown_name)).collect()
        };
        let get = |url: String| self.http.and_then(|http| http.json(&url).ok()).unwrap_or_default();
        match self.env.hub {
            Hub::ModelScope => {
                let map = &get(format!("{endpoint}/api/v1/models/{name}/revisions"))["Data"]["RevisionMap"];
                [names(&map["Branches"], "Revision"), names(&map["Tags"], "Revision")].concat()
            }
            _ => {
                let refs = get(format!("{endpoint}/api/models/{name}/refs"));
                [names(&refs["branches"], "name"), names(&refs["tags"], "name")].concat()
            }
        }
    }

    /// Models with a similar name, of the same owner where one is named.
    fn nearest(&self) -> Vec<String> {
        let ask = |query: String| -> Vec<String> {
            let url = format!("{}/api/models?{query}&sort=downloads&direction=-1&limit=100", self.env.endpoint);
            let found = self.http.and_then(|http| http.json(&url).ok()).unwrap_or_default();
            let ids = found.as_array().into_iter().flatten().filter_map(|model| model["id"].as_str().map(shown_name));
            let ids: Vec<String> = ids.filter(|id| id != self.name).collect();
            // Without an owner the names themselves are compared.
            let of =
                |id: &str| if self.name.contains('/') { id } else { id.rsplit('/').next().unwrap_or(id) }.to_owned();
            let near = closest(self.name, ids.iter().map(|id| of(id)), 0.6);
            near.iter().filter_map(|near| ids.iter().find(|id| of(id) == *near).map(|id| format!("`{id}`"))).collect()
        };
        match (self.env.hub, self.name.split_once('/')) {
            (Hub::ModelScope, _) => vec![],
            (_, Some((owner, _))) => ask(format!("author={owner}")),
            (_, None) => ask(format!("search={}", self.name)),
        }
    }
}

/// A name that a server sent, as it may be shown.
fn shown_name(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// How to fetch the model on another machine.
fn elsewhere(name: &str, hub: Hub) -> (String, String) {
    let command = match hub {
        Hub::ModelScope => format!("modelscope download --model {name} --local_dir DIR"),
        _ => format!("huggingface-cli download {name} --local-dir DIR"),
    };
    (format!("run `{command}` elsewhere and name that folder"), format!("在其他机器上运行 `{command}` 并填写该文件夹"))
}

/// The error of a machine without a place for downloads.
pub fn no_home(name: &str) -> Error {
    Error::input(format!("{name}: there is no home folder to keep downloaded models in"))
        .hint("set `cache_dir` in the config, or the variable HF_HOME")
        .hint_zh("请在配置中设置 `cache_dir`，或设置环境变量 HF_HOME")
}

/// The error of a hub that is not read.
pub fn openmind(name: &str) -> Error {
    Error::input(format!("{name}: USE_OPENMIND_HUB is set, and openMind's hub is not read"))
        .hint("unset it, or set USE_MODELSCOPE_HUB=1 instead; or download the model with openMind's own program and name its folder")
        .hint_zh("请取消该变量，或改设 USE_MODELSCOPE_HUB=1；也可用 openMind 自己的工具下载后填写其目录")
}

/// The error of a model that would have to be fetched where that is forbidden.
pub fn offline(name: &str, root: &Path, missing: &[String], hub: Hub) -> Error {
    let shown = missing.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    let more = if missing.len() > 4 { format!(" and {} more", missing.len() - 4) } else { String::new() };
    let (en, zh) = elsewhere(name, hub);
    Error::input(format!(
        "{name}: not complete in the cache {} (missing: {shown}{more}), and HF_HUB_OFFLINE forbids a download",
        root.display()
    ))
    .hint(format!("unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE), or {en}"))
    .hint_zh(format!("请取消环境变量 HF_HUB_OFFLINE（以及 TRANSFORMERS_OFFLINE），或{zh}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_refused_before_the_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        let env = HubEnv::read(|_| None);
        let words = Words::new("org/tiny", "main", &env);
        words.refuse_full_disk(dir.path(), 1).unwrap();
        let err = words.full(Path::new("/cache"), 29_500_000_000, 1_040_000_000);
        assert_eq!(err.to_string(), "org/tiny: 29.50 GB are to be downloaded to /cache, where 1.04 GB are free");
        if free_space(dir.path()).is_some() {
            assert!(words.refuse_full_disk(&dir.path().join("not/yet"), u64::MAX).is_err());
        }
    }
}
