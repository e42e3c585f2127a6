// Threads that wait for work: PyTorch's own where they can be had, else a pool of ours. A task's result must not depend on
// which thread runs it, so neither does anything here.
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
#include <unistd.h>
#define PROCESS() ((long)getpid())
#else
#include <process.h>
#define PROCESS() ((long)_getpid())
#endif

#include "api.h"

namespace {

// Scratch that a thread keeps; zeros at first, so that what no one wrote is finite. Null where there is no memory.
struct Scratch {
    void* memory = nullptr;
    size_t floats = 0;
    ~Scratch() { std::free(memory); }
    float* of(size_t wanted) {
        if (wanted > floats) {
            std::free(memory);
            memory = std::calloc(wanted + 16, sizeof(float));
            floats = memory ? wanted : 0;
            if (!memory) return nullptr;
        }
        return (float*)(((uintptr_t)memory + 63) / 64 * 64);
    }
};
thread_local Scratch scratch_of_thread;

struct Job {
    int tasks;
    size_t scratch;
    hcnn_task run;
    void* context;
    std::atomic<int> next{0};

    void work() {
        float* scratch = scratch_of_thread.of(scratch_floats());
        if (!scratch) return;  // the tasks are left to threads that have some
        for (int task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) run(context, task, scratch);
    }
    size_t scratch_floats() const { return scratch ? scratch : 16; }
};

struct Pool {
    const long process = PROCESS();
    std::mutex busy;  // held by whoever gives work
    std::mutex mutex;
    std::condition_variable wake, done;
    Job* job = nullptr;
    long turn = 0;
    int workers = 0, wanted = 0, working = 0;

    void serve(int number) {
        std::unique_lock<std::mutex> lock(mutex);
        for (long seen = 0;;) {
            wake.wait(lock, [&] { return turn != seen && job; });
            seen = turn;
            if (number >= wanted) continue;
            Job* mine = job;
            ++working;
            lock.unlock();
            mine->work();
            lock.lock();
            if (--working == 0) done.notify_all();
        }
    }

    void run(Job& work, int helpers) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            try {
                for (; workers < helpers; ++workers) std::thread(&Pool::serve, this, workers).detach();
            } catch (const std::system_error&) {
                // The system has no more threads for this process; those that there are do the work.
            }
            job = &work;
            wanted = helpers;
            ++turn;
        }
        wake.notify_all();
        work.work();
        std::unique_lock<std::mutex> lock(mutex);
        job = nullptr;  // who wakes now finds nothing
        done.wait(lock, [&] { return working == 0; });
    }
};

std::atomic<Pool*> pool{nullptr};

// Threads do not survive a fork: a child makes a pool of its own, and lets its parent's lie.
Pool& this_process() {
    Pool* now = pool.load();
    if (!now || now->process != PROCESS()) {
        Pool* made = new Pool;
        if (pool.compare_exchange_strong(now, made)) return *made;
        delete made;
        return *pool.load();
    }
    return *now;
}

// GOMP_parallel of the OpenMP runtime that PyTorch has loaded. Its threads spin for a while after each operation of
// PyTorch's, and threads of ours would have to wait for their cores meanwhile.
typedef void (*Team)(void (*run)(void*), void* data, unsigned threads, unsigned flags);
std::atomic<Team> team{nullptr};
long team_process = 0;  // the runtime's threads do not survive a fork either, and it does not make new ones

void work_on(void* job) { ((Job*)job)->work(); }

}  // namespace

extern "C" void hcnn_set_team(void* function) {
    team_process = PROCESS();
    team.store((Team)function);
}

static void run_job(Job& job, int helpers) {
    if (helpers > 0) {
        if (Team theirs = team.load(); theirs && team_process == PROCESS()) {
            theirs(work_on, &job, (unsigned)helpers + 1, 0);
            return;
        }
        Pool& mine = this_process();
        std::unique_lock<std::mutex> alone(mine.busy, std::try_to_lock);
        if (alone.owns_lock()) {  // else another thread of the process has the pool: this one works by itself
            mine.run(job, helpers);
            return;
        }
    }
    job.work();
}

extern "C" void hcnn_parallel(int tasks, int threads, size_t scratch, hcnn_task run, void* context) {
    Job job{tasks, scratch, run, context};
    run_job(job, (threads < tasks ? threads : tasks) - 1);
    if (job.next.load() < tasks) throw std::bad_alloc();  // no thread had scratch
}
