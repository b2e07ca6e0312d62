/* train.c: a C program that fine-tunes a model and samples from it, without Lua.
 *
 *     cc -std=c11 train.c $(pkg-config --cflags --libs crucible) -o train
 *     ./train MODEL.gguf [STEPS [LORA.safetensors]]
 *
 * You will see the loss of each step fall, and what the tuned model says after the first prompt. With a
 * third argument the lora is left there, as PEFT's adapter_model.safetensors.
 */
#include <crucible.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const rows[][2] = {
    {"The capital of France is", " Paris."},
    {"The capital of Italy is", " Rome."},
    {"The capital of Spain is", " Madrid."},
    {"The capital of Greece is", " Athens."},
};
enum { ROWS = sizeof rows / sizeof rows[0] };

/* Every call says CR_OK or a code; the reason is the thread's message. */
#define TRY(call)                                                                    \
    do {                                                                             \
        int code_ = (call);                                                          \
        if (code_ < 0) {                                                             \
            fprintf(stderr, "train: %s: %s\n", cr_code_name(code_), cr_error_message()); \
            goto done;                                                               \
        }                                                                            \
    } while (0)

/* Prompt and answer are encoded apart, so that the prompt's ids are what the model sees when it is asked. The
 * weight belongs to the target: tokens[i + 1] at position i. */
static int make_datum(cr_datum *out, const cr_tokenizer *tokenizer, const char *const row[2])
{
    int32_t *prompt = NULL, *answer = NULL;
    size_t before = 0, after = 0;
    int code = cr_tokenizer_encode(tokenizer, row[0], strlen(row[0]), false, &prompt, &before);
    if (code == CR_OK)
        code = cr_tokenizer_encode(tokenizer, row[1], strlen(row[1]), false, &answer, &after);
    if (code == CR_OK) {
        int32_t *tokens = malloc((before + after) * sizeof *tokens);
        float *weights = calloc(before + after, sizeof *weights);
        if (!tokens || !weights)
            abort();
        memcpy(tokens, prompt, before * sizeof *tokens);
        memcpy(tokens + before, answer, after * sizeof *tokens);
        for (size_t i = before - 1; i < before + after - 1; i++)
            weights[i] = 1;
        *out = (cr_datum){.tokens = tokens, .weights = weights, .count = before + after};
    }
    cr_free(prompt);
    cr_free(answer);
    return code;
}

static void free_datums(cr_datum *datums)
{
    for (int i = 0; i < ROWS; i++) {
        free((void *)(uintptr_t)datums[i].tokens);
        free((void *)(uintptr_t)datums[i].weights);
    }
}

/* Greedy text after the first prompt, piece by piece as it comes. */
static int sample(cr_session *session, const cr_tokenizer *tokenizer)
{
    int32_t *ids = NULL;
    size_t count = 0, events = 0;
    cr_generation *generation = NULL;
    const cr_generated *event = NULL;
    cr_sampling_params params = cr_sampling_params_default();
    params.temperature = 0;
    params.max_tokens = 8;
    int result = -1;
    TRY(cr_tokenizer_encode(tokenizer, rows[0][0], strlen(rows[0][0]), false, &ids, &count));
    TRY(cr_generation_start(&generation, session, &(cr_prompt){ids, count}, 1, &params));
    printf("%s", rows[0][0]);
    for (;;) {
        TRY(cr_generation_step(generation, &event, &events));
        if (events == 0)
            break;
        char *text = NULL;
        size_t length = 0;
        if (event->token >= 0)
            TRY(cr_tokenizer_decode(tokenizer, &event->token, 1, true, &text, &length));
        printf("%.*s", (int)length, text ? text : "");
        cr_free(text);
    }
    printf("\n");
    result = 0;
done:
    cr_generation_close(generation);
    cr_free(ids);
    return result;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL.gguf [STEPS [LORA.safetensors]]\n", argv[0]);
        return 2;
    }
    int steps = argc > 2 ? atoi(argv[2]) : 20, status = 1;
    cr_model *model = NULL;
    cr_session *session = NULL;
    cr_datum datums[ROWS] = {{0}};
    cr_adam_params adam = {
        .lr = 2e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .max_grad_norm = 1};

    TRY(cr_model_open(&model, argv[1]));
    const cr_tokenizer *tokenizer = cr_model_tokenizer(model);
    for (int i = 0; i < ROWS; i++)
        TRY(make_datum(&datums[i], tokenizer, rows[i]));

    cr_session_config config = cr_session_config_default();
    config.rank = 8;
    config.alpha = 16;
    config.targets = CR_TARGET_Q | CR_TARGET_V;
    TRY(cr_session_create(&session, model, &config));

    for (int step = 1; step <= steps; step++) {
        cr_loss_result loss;
        cr_optim_result update;
        TRY(cr_session_forward_backward(session, datums, ROWS, &(cr_loss){0}, &loss, NULL));
        TRY(cr_session_optim_step(session, &adam, &update));
        printf("step %d  loss %.4f  norm %.3f\n", step, loss.loss, update.grad_norm);
    }
    if (sample(session, tokenizer) < 0)
        goto done;
    if (argc > 3)
        TRY(cr_session_save_lora(session, argv[3]));
    status = 0;
done:
    cr_session_close(session);
    cr_model_close(model);
    free_datums(datums);
    return status;
}
