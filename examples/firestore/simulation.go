package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

const emulatorHost = "FIRESTORE_EMULATOR_HOST" // the official client reads it

// withEmulator has run find Firestore's emulator instead of Firestore.
func withEmulator(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		emulator, err := firestoresim.StartEmulator(ctx)
		if err != nil {
			return err
		}
		defer emulator.Close()
		demo.Say("emulator", "is Firestore, at %s; what it keeps is gone when this ends", emulator.Addr())
		return errors.Join(os.Setenv(emulatorHost, emulator.Addr()), os.Setenv("GOOGLE_CLOUD_PROJECT", "demo-wastability"), run(ctx))
	}
}

// scale is how long a play takes.
type scale struct {
	pace  time.Duration // between Ada's messages
	lease time.Duration // the default is 90 s
}

// simulate is the service in the parent process, and one replica in a child.
func simulate(ctx context.Context) error {
	if demo.IsReplica() {
		opts, err := demo.ReplicaOptions()
		if err != nil {
			return err
		}
		return serve(ctx, opts...)
	}
	_, err := play(ctx, 3, scale{500 * time.Millisecond, 6 * time.Second}, os.Stdout)
	return err
}

// result is what a play measured.
type result struct {
	demo.Result
	Deploys []time.Duration // how long the account was off
	Crash   time.Duration
}

// play deploys n times and kills a replica once, with Ada writing all the while.
func play(ctx context.Context, n int, s scale, out io.Writer) (res result, err error) {
	world, err := demo.New(ctx)
	if err != nil {
		return res, err
	}
	defer world.Close()
	token := rand.Text()
	replicas, err := demo.NewReplicas(world, out, "ADMIN_TOKEN="+token, "FIRESTORE_ROOT=simulations/"+rand.Text(), demo.EnvLease+"="+s.lease.String())
	if err != nil {
		return res, err
	}
	replicas.Pace = s.pace
	var started int
	var running []*instance
	start := func() error {
		started++
		one := &instance{token: token}
		if one.port, err = stabilitytest.FreePort(); err != nil {
			return err
		}
		if one.Replica, err = replicas.Start(fmt.Sprintf("replica %d", started), "PORT="+one.port); err == nil {
			running = append(running, one)
		}
		return err
	}
	defer func() {
		for _, one := range running {
			one.Kill()
		}
	}()
	// The account's next replica has taken over when this many logins were seen.
	takeOver := func(end func() error) (time.Duration, error) {
		logins, gap := replicas.Logins(), replicas.Gap(ctx)
		if err := end(); err != nil {
			return 0, err
		}
		running = running[1:]
		if err := replicas.Chat(ctx, 2); err != nil {
			return 0, err
		}
		off, ok := <-gap
		if !ok {
			return 0, fmt.Errorf("interrupted: %w", context.Cause(ctx))
		}
		if got := replicas.Logins() - logins; got != 1 {
			return 0, fmt.Errorf("%d logins where one was due", got)
		}
		return off, running[0].await(ctx, "/ready", http.StatusOK)
	}

	if err := start(); err != nil {
		return res, err
	}
	if err := running[0].Until(ctx, replicas.Online); err != nil {
		return res, err
	}
	for range n {
		if err := start(); err != nil {
			return res, err
		}
		demo.Say("platform", "starts %s and waits until it is ready", running[1].Name)
		if err := running[1].await(ctx, "/ready?standby=ok", http.StatusOK); err != nil {
			return res, err
		}
		if err := replicas.Chat(ctx, 4); err != nil {
			return res, err
		}
		off, err := takeOver(func() error {
			demo.Say("platform", "sends SIGTERM to %s", running[0].Name)
			return running[0].Terminate()
		})
		if err != nil {
			return res, err
		}
		res.Deploys = append(res.Deploys, off)
		if err := running[0].tell(ctx); err != nil {
			return res, err
		}
	}

	if err := start(); err != nil {
		return res, err
	}
	if err := running[1].await(ctx, "/ready?standby=ok", http.StatusOK); err != nil {
		return res, err
	}
	if err := replicas.Quiet(ctx); err != nil {
		return res, err
	}
	demo.Say("platform", "kills %s between two messages: nothing is released, its lease has to run out", running[0].Name)
	res.Crash, err = takeOver(func() error { running[0].Kill(); return nil })
	if err != nil {
		return res, err
	}
	res.Result = replicas.Settle(ctx)
	if err := running[0].Terminate(); err != nil {
		return res, err
	}
	demo.Say("summary", "%d deploys, off for at most %s; one crash, off for %s with a lease of %s", n,
		slices.Max(res.Deploys).Round(10*time.Millisecond), res.Crash.Round(100*time.Millisecond), s.lease)
	demo.Say("", "%s", res.Result)
	return res, res.Err()
}

// instance is a replica with its admin API.
type instance struct {
	*demo.Replica
	port  string
	token string
}

// patient gives a request up after a while.
var patient = http.Client{Timeout: 5 * time.Second}

func (i *instance) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%s%s", i.port, path), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Admin-Token", i.token)
	return patient.Do(req)
}

// await waits until path is answered with the status, as a platform's probe does.
func (i *instance) await(ctx context.Context, path string, status int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, fmt.Errorf("%s: %s was not answered with %d within 30 s", i.Name, path, status))
	defer cancel()
	return i.Until(ctx, func() bool {
		resp, err := i.get(ctx, path)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == status
	})
}

// tell shows what an operator reads.
func (i *instance) tell(ctx context.Context) error {
	resp, err := i.get(ctx, "/api/longrun/status-now")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var status struct {
		WA struct {
			Status     string `json:"waStatus"`
			AuthStore  string `json:"authStore"`
			LeaseEpoch int64  `json:"leaseEpoch"`
			Summary    string `json:"summary"`
		} `json:"wa"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return fmt.Errorf("status-now of %s: %w", i.Name, err)
	}
	demo.Say("operator", "asks %s: %s, term %d, store %s. %s", i.Name, status.WA.Status, status.WA.LeaseEpoch, status.WA.AuthStore, status.WA.Summary)
	return nil
}
