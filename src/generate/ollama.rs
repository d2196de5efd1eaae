//! The `Modelfile` by which Ollama asks a merged model as training did.

use super::prompt::Speaker;
use crate::{config::TemplateName, dataset::template::EMPTY_THOUGHT};

impl Speaker {
    /// What follows `<|im_start|>assistant\n` before the model writes.
    fn answer_begins_with(&self) -> &'static str {
        match (self.template, self.enable_thinking) {
            (TemplateName::Qwen3, Some(false) | None) => EMPTY_THOUGHT,
            (TemplateName::Qwen3, Some(true)) | (TemplateName::Qwen3Nothink, _) => "",
        }
    }

    /// Template, system text and end of a turn; the instruction stands in a comment, because Ollama has no place for it.
    pub fn modelfile(&self) -> String {
        let begins = self.answer_begins_with();
        let mut text = String::from("# ollama create NAME -f Modelfile\n");
        if let Some(instruction) = &self.instruction {
            text += "# Ask as in training: this instruction, a new line, the text.\n";
            instruction.lines().for_each(|line| text += &format!("#   {line}\n"));
        }
        text += "\nFROM .\n\nTEMPLATE \"\"\"{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}";
        text += "{{ range .Messages }}{{ if eq .Role \"user\" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n";
        text += &format!("<|im_start|>assistant\n{begins}{{{{ else if eq .Role \"assistant\" }}}}{{{{ .Content }}}}");
        text += "<|im_end|>\n{{ end }}{{ end }}\"\"\"\n\n";
        if let Some(system) = &self.system {
            text += &format!("SYSTEM \"\"\"{system}\"\"\"\n\n");
        }
        text + "PARAMETER stop \"<|im_end|>\"\nPARAMETER num_ctx 4096\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ollama_is_told_the_manner_of_training() {
        let mut speaker = Speaker::plain(TemplateName::Qwen3, Some(false));
        speaker.instruction = Some("对下联".into());
        let plain = speaker.modelfile();
        assert!(plain.contains("<|im_start|>assistant\n<think>\n\n</think>\n\n{{ else if"), "{plain}");
        assert!(plain.contains("#   对下联\n") && !plain.contains("SYSTEM"), "{plain}");
        speaker.enable_thinking = Some(true);
        speaker.system = Some("你是先生".into());
        let thinking = speaker.modelfile();
        assert!(thinking.contains("<|im_start|>assistant\n{{ else if"), "{thinking}");
        assert!(thinking.contains("SYSTEM \"\"\"你是先生\"\"\"\n"), "{thinking}");
    }
}
