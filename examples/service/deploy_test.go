package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

// The test binary is also the replica that a rollout starts.
func TestMain(m *testing.M) {
	if demo.IsReplica() {
		main()
		return
	}
	_ = flag.Set("test.parallel", "8") // unless the command line says another: they wait most of the time
	os.Exit(postgrestest.Main(firestoresim.Main(m)).Run())
}

// pace is how fast Ada writes.
const pace = 200 * time.Millisecond

// rollout is one platform with the processes that it runs.
type rollout struct {
	platform
	t        *testing.T
	ctx      context.Context
	replicas *demo.Replicas
	started  int
}

// process is one replica and the port of its admin page.
type process struct {
	*demo.Replica
	port string
}

// start starts a replica; env is its own, beside what all have.
func (r *rollout) start(env ...string) *process {
	port, err := stabilitytest.FreePort()
	require.NoError(r.t, err)
	r.started++
	p, err := r.replicas.Start(fmt.Sprintf("%s %d", r.name, r.started), append(env, "PORT="+port)...)
	require.NoError(r.t, err)
	r.t.Cleanup(p.Kill)
	return &process{p, port}
}

// await asks as the platform does, until the replica counts as ready.
func (r *rollout) await(p *process) {
	r.t.Helper()
	if r.byProbe {
		self, err := os.Executable()
		require.NoError(r.t, err)
		cmd := exec.CommandContext(r.ctx, self, "-probe", r.ready)
		cmd.Env = append(os.Environ(), "PORT="+p.port, "WASTABILITY_DEMO_ENDPOINT=none")
		out, err := cmd.CombinedOutput()
		require.NoError(r.t, err, "%s", out)
		return
	}
	client := http.Client{Timeout: 2 * time.Second}
	require.NoError(r.t, p.Until(r.ctx, func() bool {
		resp, err := client.Get("http://127.0.0.1:" + p.port + r.ready)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}))
}

// replace puts a new replica in the place of an old one.
func (r *rollout) replace(old *process) *process {
	end := func() { require.NoError(r.t, old.TerminateWithin(r.grace)) }
	if r.stopFirst {
		end()
	}
	p := r.start()
	r.await(p)
	if !r.stopFirst {
		time.Sleep(r.overlap) // the platform's own pause
		require.NoError(r.t, r.replicas.Chat(r.ctx, 1))
		end()
	}
	require.NoError(r.t, r.replicas.Chat(r.ctx, 1))
	return p
}

// longestOff watches how long the account is off at a time.
func (r *rollout) longestOff() (stop func() time.Duration) {
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan struct{})
	var longest atomic.Int64
	go func() {
		defer close(done)
		since := time.Now()
		for ctx.Err() == nil {
			if r.replicas.Online() {
				since = time.Now()
			} else if off := time.Since(since); int64(off) > longest.Load() {
				longest.Store(int64(off))
			}
			time.Sleep(5 * time.Millisecond) // how exact the measure is
		}
	}()
	return func() time.Duration { cancel(); <-done; return time.Duration(longest.Load()) }
}

func TestRollingDeployOfEachPlatformLosesNothing(t *testing.T) {
	t.Parallel()
	for _, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel() // those without a server need not wait for it
			env := []string{"ADMIN_TOKEN=" + rand.Text(), "SHUTDOWN_TIMEOUT=" + p.shutdown}
			switch p.store {
			case "local":
				env = append(env, "STORE=local:"+filepath.Join(t.TempDir(), "wa.db"))
			case "postgres":
				env = append(env, "STORE=postgres:"+p.name, "DATABASE_URL="+postgrestest.Need(t).DSN())
			case "firestore":
				env = append(env, "STORE=firestore:deploy/"+rand.Text(), "GOOGLE_CLOUD_PROJECT=demo-wastability",
					firestoresim.HostEnv+"="+firestoresim.NeedEmulator(t).Addr())
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			world, err := demo.New(ctx)
			require.NoError(t, err)
			defer world.Close()
			replicas, err := demo.NewReplicas(world, io.Discard, env...)
			require.NoError(t, err)
			replicas.Pace = pace
			r := &rollout{platform: p, t: t, ctx: ctx, replicas: replicas}

			var running []*process
			for range p.replicas {
				running = append(running, r.start())
				require.NoError(t, running[0].Until(ctx, replicas.Online))
				r.await(running[len(running)-1])
			}
			off := r.longestOff()
			logins := replicas.Logins()
			for i := range running {
				running[i] = r.replace(running[i])
			}
			require.NoError(t, demo.Until(ctx, replicas.Online))
			gap := off()
			moved := replicas.Logins() - logins
			res := replicas.Settle(ctx)
			for i := range running { // the one that stands by first: nobody has to take over
				require.NoError(t, running[len(running)-1-i].TerminateWithin(p.grace))
			}
			t.Logf("%s on %s: %d of %d replicas replaced, %d hand-overs, off for at most %s; %s", p.name, p.store, p.replicas, p.replicas, moved, gap.Round(time.Millisecond), res)
			require.NoError(t, res.Err())
			require.Positive(t, moved, "the account has moved")
			require.LessOrEqual(t, moved, p.replicas, "at most once for each that ended")
		})
	}
}

func TestReplicaThatEndsAtItsStartIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	world, err := demo.New(ctx)
	require.NoError(t, err)
	defer world.Close()
	replicas, err := demo.NewReplicas(world, io.Discard, "STORE=nowhere")
	require.NoError(t, err)
	r := &rollout{platform: platform{name: "deploy"}, t: t, ctx: ctx, replicas: replicas}
	require.ErrorContains(t, r.start().Until(ctx, replicas.Online), "deploy 1 has ended by itself: exit status 1")
}
