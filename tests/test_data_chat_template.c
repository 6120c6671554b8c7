#define _GNU_SOURCE
#include "tests/check.h"

#include "data/chat_template.h"

/* The text with the assistant's bytes in {braces}. */
static char *render(const char *name, const char *json, bool generation_prompt) {
    struct chat_template template;
    struct chat_messages messages;
    struct chat_text text;
    assert_ok(chat_template_named(&template, name));
    json_t *parsed = json_loads(json, 0, NULL);
    assert_non_null(parsed);
    assert_ok(chat_messages_read(&messages, parsed));
    assert_ok(chat_template_render(&template, "<s>", "</s>", &messages, generation_prompt, &text));
    char *marked = calloc(2 * text.bytes + 2, 1), *out = marked;
    bool inside = false;
    for (size_t i = 0; i <= text.bytes; i++) {
        bool mark = i < text.bytes && text.assistant[i];
        if (mark != inside) *out++ = mark ? '{' : '}';
        inside = mark;
        if (i < text.bytes) *out++ = text.text[i];
    }
    assert_int_equal(strlen(text.text), text.bytes);
    chat_text_free(&text);
    chat_messages_free(&messages);
    json_decref(parsed);
    return marked;
}

static const char conversation[] =
    "[{\"role\": \"system\", \"content\": \" S\\n\"}, {\"role\": \"user\", \"content\": \" Q1 \"},"
    " {\"role\": \"assistant\", \"content\": \" A1 \"}, {\"role\": \"user\", \"content\": \"Q2\"},"
    " {\"role\": \"assistant\", \"content\": \"A2\"}]";

static void test_every_template_marks_the_answers(void **state) {
    (void)state;
    static const struct {
        const char *name, *want;
    } cases[] = {
        {"plain", "<s>System:  S\n\n\nUser:  Q1 \n\nAssistant:{  A1 </s>}\n\nUser: Q2\n\n"
                  "Assistant:{ A2</s>}\n\n"},
        {"chatml", "<|im_start|>system\n S\n<|im_end|>\n<|im_start|>user\n Q1 <|im_end|>\n"
                   "<|im_start|>assistant\n{ A1 <|im_end|>}\n<|im_start|>user\nQ2<|im_end|>\n"
                   "<|im_start|>assistant\n{A2<|im_end|>}\n"},
        {"qwen3", "<|im_start|>system\n S\n<|im_end|>\n<|im_start|>user\n Q1 <|im_end|>\n"
                  "<|im_start|>assistant\n{ A1 <|im_end|>}\n<|im_start|>user\nQ2<|im_end|>\n"
                  "<|im_start|>assistant\n{<think>\n\n</think>\n\nA2<|im_end|>}\n"},
        {"llama2", "<s>[INST] <<SYS>>\n S\n\n<</SYS>>\n\n Q1 [/INST]{ A1 </s>}<s>[INST] Q2 [/INST]"
                   "{ A2 </s>}"},
        {"llama3", "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>"
                   "user<|end_header_id|>\n\nQ1<|eot_id|><|start_header_id|>assistant"
                   "<|end_header_id|>\n\n{A1<|eot_id|>}<|start_header_id|>user<|end_header_id|>"
                   "\n\nQ2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
                   "{A2<|eot_id|>}"},
        {"mistral-v1", "<s>[INST]  S\n\n\n Q1  [/INST]{ A1 </s>}[INST] Q2 [/INST]{A2</s>}"},
        {"mistral-v1-spm", "<s> [INST]  S\n\n\n Q1  [/INST]{  A1 </s>} [INST] Q2 [/INST]{ A2</s>}"},
        {"mistral-v3-spm", "<s>[INST]  Q1 [/INST]{  A1 </s>}[INST]  S\n\n\nQ2[/INST]{ A2</s>}"},
        {"mistral-v3", "<s>[INST] Q1 [/INST]{ A1 </s>}[INST] S\n\n\nQ2[/INST]{A2</s>}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *got = render(cases[i].name, conversation, false);
        assert_string_equal(got, cases[i].want);
        free(got);
    }
}

/* What a server sends is a prefix of what was trained, and the answer begins right after it. */
static void test_generation_prompt_is_where_the_answer_begins(void **state) {
    (void)state;
    static const char *const names[] = {
        "plain",  "chatml",   "qwen2",      "qwen2.5",        "qwen3",          "llama2",
        "llama3", "llama3.1", "mistral-v1", "mistral-v1-spm", "mistral-v3-spm", "mistral-v3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *prompt = render(names[i], "[{\"role\": \"user\", \"content\": \"Q\"}]", true);
        char *whole = render(names[i],
                             "[{\"role\": \"user\", \"content\": \"Q\"},"
                             " {\"role\": \"assistant\", \"content\": \"A\"}]",
                             false);
        size_t bytes = strlen(prompt);
        if (strncmp(prompt, whole, bytes) != 0 || whole[bytes] != '{')
            fail_msg("%s: \"%s\" then \"%s\"", names[i], prompt, whole);
        free(prompt);
        free(whole);
    }
}

static void test_default_system_messages(void **state) {
    (void)state;
    char *got = render("qwen2.5", "[{\"role\": \"user\", \"content\": \"Q\"}]", true);
    assert_string_equal(got,
                        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a "
                        "helpful assistant.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
                        "<|im_start|>assistant\n");
    free(got);
    got = render("llama3.1", "[{\"role\": \"system\", \"content\": \" S \"}]", false);
    assert_string_equal(got, "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge "
                             "Date: December 2023\nToday Date: 26 Jul 2024\n\nS<|eot_id|>");
    free(got);
}

static void test_qwen3_keeps_only_the_last_thoughts(void **state) {
    (void)state;
    char *got = render("qwen3",
                       "[{\"role\": \"user\", \"content\": \"Q1\"}, {\"role\": \"assistant\","
                       " \"content\": \"<think>\\nT1\\n</think>\\n\\nA1\"},"
                       " {\"role\": \"user\", \"content\": \"Q2\"}, {\"role\": \"assistant\","
                       " \"content\": \"<think>\\nT2\\n</think>\\n\\nA2\"}]",
                       false);
    assert_string_equal(got, "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n"
                             "{A1<|im_end|>}\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant"
                             "\n{<think>\nT2\n</think>\n\nA2<|im_end|>}\n");
    free(got);
}

static void test_stops(void **state) {
    (void)state;
    struct chat_template template;
    assert_ok(chat_template_named(&template, "llama3"));
    assert_string_equal(chat_template_end(&template), "<|eot_id|>");
    assert_string_equal(chat_template_stops(&template)[0], "<|eot_id|>");
    assert_string_equal(chat_template_stops(&template)[1], "<|eom_id|>");
    assert_null(chat_template_stops(&template)[2]);
    assert_ok(chat_template_named(&template, "llama2"));
    assert_null(chat_template_end(&template));
    assert_null(chat_template_stops(&template)[0]);
    assert_int_equal(chat_template_named(&template, "vicuna"), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "\"vicuna\""));
    assert_non_null(strstr(status_message(), "llama3.1, mistral-v1"));
}

static enum status try_messages(const char *name, const char *json) {
    struct chat_template template;
    struct chat_messages messages;
    struct chat_text text;
    assert_ok(chat_template_named(&template, name));
    json_t *parsed = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(parsed);
    enum status status = chat_messages_read(&messages, parsed);
    json_decref(parsed);
    TRY(status);
    status = chat_template_render(&template, "", "", &messages, true, &text);
    chat_messages_free(&messages);
    if (status == STATUS_OK) chat_text_free(&text);
    return status;
}

static void test_bad_messages_name_the_index(void **state) {
    (void)state;
    static const char user[] = "{\"role\": \"user\", \"content\": \"Q\"}";
    static const struct {
        const char *name, *last, *want;
    } cases[] = {
        {"chatml", "{\"role\": \"tool\", \"content\": \"x\"}", "messages[1]: role \"tool\""},
        {"chatml", "{\"role\": \"user\", \"content\": 5}", "messages[1]: content is not a string"},
        {"chatml", "{\"role\": \"user\", \"content\": null}", "messages[1]: content"},
        {"chatml", "{\"content\": \"x\"}", "messages[1]: role is not a string"},
        {"chatml", "\"x\"", "messages[1]: is not an object"},
        {"chatml", "{\"role\": \"assistant\", \"content\": \"x\", \"tool_calls\": [{}]}",
         "messages[1]: tool calls"},
        {"chatml", "{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}",
         "messages[1]: content has a part"},
        {"llama2", "{\"role\": \"user\", \"content\": \"x\"}", "messages[1]: role \"user\" where"},
        {"llama2", "{\"role\": \"system\", \"content\": \"x\"}", "messages[1]: role \"system\""},
        {"llama3.1", "{\"role\": \"system\", \"content\": \"x\"}",
         "messages[1]: role \"system\" must come first"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[512];
        snprintf(json, sizeof json, "[%s, %s]", user, cases[i].last);
        assert_int_equal(try_messages(cases[i].name, json), STATUS_FORMAT);
        if (!strstr(status_message(), cases[i].want))
            fail_msg("got \"%s\", want \"%s\"", status_message(), cases[i].want);
    }
    assert_int_equal(try_messages("chatml", "[]"), STATUS_FORMAT);
    assert_int_equal(try_messages("chatml", "{}"), STATUS_FORMAT);
    assert_int_equal(try_messages("mistral-v3", "[{\"role\": \"system\", \"content\": \"x\"}]"),
                     STATUS_FORMAT);
    assert_int_equal(try_messages("mistral-v3", "[{\"role\": \"assistant\", \"content\": \"x\"}]"),
                     STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "messages[0]"));
}

/* Against what Python's jinja2 made of the models' own templates. */

static char *read_text(const char *folder, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("%s is missing", path);
    char *text = NULL;
    size_t bytes = 0;
    if (getdelim(&text, &bytes, 0, file) < 0) fail_msg("%s is empty", path);
    fclose(file);
    return text;
}

static json_t *read_json(const char *folder, const char *name) {
    char *text = read_text(folder, name);
    json_t *json = json_loads(text, 0, NULL);
    free(text);
    assert_non_null(json);
    return json;
}

static const char *text_of(const json_t *json, const char *key) {
    const char *text = json_string_value(json_object_get(json, key));
    return text ? text : "";
}

static void compare(const char *what, const struct chat_template *template, const json_t *data,
                    const char *want) {
    struct chat_messages messages;
    struct chat_text text;
    assert_ok(chat_messages_read(&messages, json_object_get(data, "messages")));
    assert_ok(chat_template_render(
        template, text_of(data, "bos_token"), text_of(data, "eos_token"), &messages,
        json_is_true(json_object_get(data, "add_generation_prompt")), &text));
    if (strcmp(text.text, want) != 0)
        fail_msg("%s as %s:\n got %s\nwant %s", what, chat_template_name(template), text.text,
                 want);
    chat_text_free(&text);
    chat_messages_free(&messages);
}

/* Of the 71 templates these are built in; every other must not be taken for one of them. */
static const struct {
    const char *file, *name;
} built_in[] = {
    {"MiMo-VL.jinja", "chatml"},
    {"NousResearch-Hermes-3-Llama-3.1-70B-default.jinja", "chatml"},
    {"Qwen-Qwen2-7B-Instruct.jinja", "chatml"},
    {"Qwen-Qwen2.5-7B-Instruct.jinja", "chatml"},
    {"Qwen-Qwen2.5-Math-7B-Instruct.jinja", "chatml"},
    {"Qwen-Qwen3-Coder-30B-A3B-Instruct.jinja", "chatml"},
    {"Qwen3-Coder.jinja", "chatml"},
    {"bofenghuang-vigogne-2-70b-chat.jinja", "llama2"},
    {"meta-llama-Llama-3.1-8B-Instruct.jinja", "llama3.1"},
    {"mistral_common_v1.jinja", "mistral-v1"},
    {"mistral_common_v1_spm.jinja", "mistral-v1-spm"},
    {"mistral_common_v2_spm.jinja", "mistral-v3-spm"},
    {"mistral_common_v3.jinja", "mistral-v3"},
    {"mistralai-Mistral-Nemo-Instruct-2407.jinja", "mistral-v3"},
    {"mistralrs_mistral_nemo_tool_call.jinja", "mistral-v3"},
    {"teknium-OpenHermes-2.5-Mistral-7B.jinja", "chatml"},
};

static bool recognise(struct chat_template *template, const char *folder, const char *file) {
    char name[256];
    snprintf(name, sizeof name, "templates/%s", file);
    char *jinja = read_text(folder, name);
    enum status status = chat_template_recognise(template, jinja);
    free(jinja);
    for (size_t i = 0; i < sizeof built_in / sizeof *built_in; i++) {
        if (strcmp(built_in[i].file, file) != 0) continue;
        assert_ok(status);
        assert_string_equal(chat_template_name(template), built_in[i].name);
        return true;
    }
    if (status != STATUS_UNSUPPORTED)
        fail_msg("%s was taken for %s", file, chat_template_name(template));
    return false;
}

/* Contexts without tools and with messages, whose contents are text (lists of parts are mistral's
 * own): 7 each of 16 templates, and 4 with parts. */
static void test_rendered_like_jinja(void **state) {
    (void)state;
    char folder[512];
    snprintf(folder, sizeof folder, "%s/chat_templates_rendered", test_data_or_skip());
    json_t *contexts = read_json(folder, "contexts.json");
    char *lines = read_text(folder, "expected_python_jinja2.jsonl"), *rest = lines;
    int compared = 0;
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        json_t *row = json_loads(line, 0, NULL);
        const char *file = text_of(row, "template"), *context = text_of(row, "context");
        const json_t *data = json_object_get(contexts, context);
        struct chat_template template;
        bool parts = strcmp(context, "content_parts") == 0;
        bool plain = !json_object_get(data, "tools") && strcmp(context, "empty") != 0;
        if (recognise(&template, folder, file) && plain &&
            (!parts || strncmp(file, "mistral_common", 14) == 0)) {
            compare(file, &template, data, text_of(row, "output"));
            compared++;
        }
        json_decref(row);
    }
    assert_int_equal(compared, 16 * 7 + 4);
    free(lines);
    json_decref(contexts);
}

/* Templates as other programs' own tests hold them, that are built in and need no tools. */
static void test_more_templates(void **state) {
    (void)state;
    char folder[512];
    snprintf(folder, sizeof folder, "%s/chat_templates_hf_jinja", test_data_or_skip());
    static const char *const names[] = {"_base",
                                        "llama",
                                        "mistralai/Mixtral-8x7B-Instruct-v0.1",
                                        "cognitivecomputations/dolphin-2.5-mixtral-8x7b",
                                        "mistralai/Mistral-Nemo-Instruct-2407",
                                        "Qwen/Qwen3-0.6B"};
    json_t *cases = read_json(folder, "hf_chat_templates_e2e.json"), *row;
    size_t index;
    int compared = 0;
    struct chat_template template;
    json_array_foreach(cases, index, row) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            if (strcmp(text_of(row, "name"), names[i]) != 0) continue;
            assert_ok(chat_template_recognise(&template, text_of(row, "chat_template")));
            compare(names[i], &template, json_object_get(row, "data"), text_of(row, "expected"));
            compared++;
        }
    }
    assert_int_equal(compared, 6);
    json_decref(cases);

    snprintf(folder, sizeof folder, "%s/chat_templates_llama_cpp", test_data_or_skip());
    cases = read_json(folder, "llama_cpp_chat_template_cases.json");
    json_array_foreach(json_object_get(cases, "cases"), index, row) {
        if (chat_template_recognise(&template, text_of(row, "template")) != STATUS_OK ||
            !json_object_get(row, "python_jinja2_output"))
            continue;
        json_object_set(row, "messages", json_object_get(cases, "conversation"));
        json_object_set(row, "add_generation_prompt",
                        json_object_get(cases, "add_generation_prompt"));
        compare(text_of(row, "name"), &template, row, text_of(row, "python_jinja2_output"));
        compared++;
    }
    assert_int_equal(compared, 6 + 5);
    json_decref(cases);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_template_marks_the_answers),
        cmocka_unit_test(test_generation_prompt_is_where_the_answer_begins),
        cmocka_unit_test(test_default_system_messages),
        cmocka_unit_test(test_qwen3_keeps_only_the_last_thoughts),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_bad_messages_name_the_index),
        cmocka_unit_test(test_rendered_like_jinja),
        cmocka_unit_test(test_more_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
