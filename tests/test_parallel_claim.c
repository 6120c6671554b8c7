/* A start that a later one has taken over from changes nothing any more. Runs plainly and under
 * mpirun. */
#define _GNU_SOURCE
#include "tests/checkpoint_site.h"

#include "parallel/checkpoint_directory.h"

#include <sys/wait.h>
#include <unistd.h>

static enum status take_as(int64_t number, int64_t restart, struct checkpoint_claim *mine) {
    return checkpoint_claim_take(&site.job.world, site.folder,
                                 &(struct checkpoint_start){number, restart}, mine);
}

/* A start that a later one has taken over from changes nothing any more, whatever it tries; nor can
 * it take the directory back. */
static void test_a_former_start_is_fenced(void **state) {
    (void)state;
    struct checkpoint_claim former, latest;
    assert_ok(take_as(7, 0, &former));
    site.claim = former;
    assert_ok(site_save(&site.job.world, 5, 1));
    comm_barrier(&site.job.world, &site.stream);
    assert_false(checkpoint_claim_is_former(site.folder, &(struct checkpoint_start){7, 0}));
    assert_true(checkpoint_claim_is_former(site.folder, &(struct checkpoint_start){7, 1}));
    assert_false(checkpoint_claim_is_former(site.folder, &(struct checkpoint_start){8, 1}));
    comm_barrier(&site.job.world, &site.stream);
    assert_ok(take_as(7, 1, &latest));
    comm_barrier(&site.job.world, &site.stream);

    assert_int_equal(site_save(&site.job.world, 6, 1), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "has taken over"));
    assert_int_equal(site_save(&site.job.world, 5, 1), STATUS_CONFIG);
    comm_barrier(&site.job.world, &site.stream);
    if (site.job.world.rank == 0) { /* also where it is beyond its checks already */
        assert_int_equal(checkpoint_mark_best(&former, 5), STATUS_CONFIG);
        assert_int_equal(checkpoint_directory_publish(&former, 6), STATUS_CONFIG);
        assert_int_equal(checkpoint_directory_prune(&former, 5, 0, -1), STATUS_CONFIG);
        checkpoint_directory_sweep(&former);
        checkpoint_claim_release(&former);
    }
    comm_barrier(&site.job.world, &site.stream);
    assert_int_equal(take_as(7, 0, &former), STATUS_CONFIG);
    site.claim = latest;
    assert_string_equal(site_listing(), "step-00000005");
    comm_barrier(&site.job.world, &site.stream);
    site_load(&site.job.world, 5);
    assert_ok(site_save(&site.job.world, 6, 1));
    struct checkpoint_claim other;
    assert_ok(take_as(3, 0, &other)); /* another job comes last */
    assert_int_equal(site_save(&site.job.world, 7, 1), STATUS_CONFIG);
    site.claim = other;
    assert_ok(site_save(&site.job.world, 7, 1));
    comm_barrier(&site.job.world, &site.stream);
    if (site.job.world.rank == 0) checkpoint_claim_release(&other);
    comm_barrier(&site.job.world, &site.stream);
    assert_string_equal(site_listing(), "step-00000007");
}

/* Whatever a writer was doing when it lost its claim: what is there once the claim is taken stays
 * as it is, and it is whole. */
static void test_a_writer_loses_its_claim_at_any_moment(void **state) {
    (void)state;
    site_only_alone();
    uint64_t random = 99;
    for (int trial = 0; trial < 12; trial++) {
        int reports[2];
        char first;
        assert_int_equal(pipe(reports), 0);
        pid_t child = fork();
        if (child == 0) {
            alarm(60); /* one that never loses it must not go on for ever */
            site.claim = (struct checkpoint_claim){0};
            enum status status = site_save(&site.job.world, 1, 2);
            if (write(reports[1], "1", 1) != 1) _exit(1);
            for (int64_t step = 2; status == STATUS_OK; step++)
                status = site_save(&site.job.world, step % 3 + 1, 2);
            _exit(status == STATUS_CONFIG ? 0 : 1);
        }
        assert_int_equal(read(reports[0], &first, 1), 1);
        random = random * 6364136223846793005u + 1442695040888963407u;
        usleep((useconds_t)(random >> 40) % 30000);
        assert_ok(take_as(1, 1, &site.claim));
        close(reports[0]);
        close(reports[1]);
        char seen[256];
        snprintf(seen, sizeof seen, "%s", site_listing());
        int code = 0;
        waitpid(child, &code, 0);
        assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
        assert_string_equal(site_listing(), seen);
        assert_true(site_load(&site.job.world, -1) > 0);
    }
}

static int run_all(void) {
    const struct CMUnitTest tests[] = {
        site_test(test_a_former_start_is_fenced),
        site_test(test_a_writer_loses_its_claim_at_any_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv) {
    return site_main(argc, argv, run_all);
}
