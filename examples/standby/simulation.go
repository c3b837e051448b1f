package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/wastability/wastability/examples/internal/demo"
)

// envSession tells a replica where the session file is.
const envSession = "WASTABILITY_DEMO_SESSION"

// rounds is how many hand-overs are played.
const rounds = 3

// simulate is the service in the parent process, and one replica in a child.
func simulate(ctx context.Context) error {
	if demo.IsReplica() {
		opts, err := demo.ReplicaOptions()
		if err != nil {
			return err
		}
		return serve(ctx, os.Getenv(envSession), opts...)
	}
	_, _, err := play(ctx, rounds, 500*time.Millisecond, os.Stdout)
	return err
}

// play runs two replicas at a time through n hand-overs, with Ada writing all
// the while, a message each pace. gaps are from the end of a replica's connection to the next one's
// login.
func play(ctx context.Context, n int, pace time.Duration, out io.Writer) (gaps []time.Duration, res demo.Result, err error) {
	dir, err := os.MkdirTemp("", "wastability-standby-")
	if err != nil {
		return nil, res, err
	}
	defer os.RemoveAll(dir)
	world, err := demo.New(ctx)
	if err != nil {
		return nil, res, err
	}
	defer world.Close()
	r, err := demo.NewReplicas(world, out, envSession+"="+filepath.Join(dir, "session.db"))
	if err != nil {
		return nil, res, err
	}
	r.Pace = pace
	active, err := r.Start("replica 1")
	if err != nil {
		return nil, res, err
	}
	defer func() { active.Kill() }()
	if err := active.Until(ctx, r.Online); err != nil {
		return nil, res, err
	}
	for i := range n {
		next, err := r.Start(fmt.Sprintf("replica %d", i+2))
		if err != nil {
			return nil, res, err
		}
		err = next.Until(ctx, next.StandsBy)
		if err == nil {
			err = r.Chat(ctx, 4)
		}
		if err != nil {
			next.Kill()
			return nil, res, err
		}
		logins := r.Logins()
		gap := r.Gap(ctx)
		demo.Say("platform", "sends SIGTERM to %s", active.Name)
		err = active.Terminate()
		active = next
		if err != nil {
			return nil, res, err
		}
		if err := r.Chat(ctx, 2); err != nil {
			return nil, res, err
		}
		took, ok := <-gap
		if !ok {
			return nil, res, fmt.Errorf("interrupted: %w", context.Cause(ctx))
		}
		gaps = append(gaps, took)
		if got := r.Logins() - logins; got != 1 {
			return nil, res, fmt.Errorf("%d logins where one was due", got)
		}
	}
	res = r.Settle(ctx)
	if err := active.Terminate(); err != nil {
		return gaps, res, err
	}
	demo.Say("summary", "%d hand-overs; the account was off for at most %s; %s", n, slices.Max(gaps).Round(10*time.Millisecond), res)
	return gaps, res, res.Err()
}
