// Command mutate shows that the tests can fail. It keeps a list of defects, made
// by hand, each with the sentence of what a user would lose; it puts one after
// the other into the code, by an overlay, and runs the tests that should notice.
//
//	go run ./.ci/mutate                    # 20 of them, chosen by the day
//	go run ./.ci/mutate -all               # all
//	go run ./.ci/mutate authstore lock/    # those whose package/name has one of these in it
//
// The defects of a package share one test binary, see combine.go. The test that an
// entry names runs first; the whole package runs only if that
// test notices nothing. A defect that no longer fits the code, or that does not
// compile, is an error, and so is a test that fails without any defect. The exit
// code is 1 if there was an error, or if a defect survived that is not marked so.
//
// The lists are the files defects/*.txt; parse.go describes their form.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

func main() {
	all := flag.Bool("all", false, "all defects, not a sample")
	day := flag.String("day", time.Now().UTC().Format(time.DateOnly), "the day that chooses the sample")
	size := flag.Int("n", 20, "how many are in a sample")
	workers := flag.Int("p", 2, "how many at a time")
	limit := flag.Duration("timeout", 5*time.Minute, "for the tests of one defect; a hang is noticed then")
	named := flag.Bool("named", false, "run the named tests only, never a whole package")
	check := flag.Bool("check", false, "run nothing: does every defect fit the code?")
	flag.Parse()

	root, err := repository()
	exitIf(err)
	defects, err := load(filepath.Join(root, ".ci", "mutate", "defects"))
	exitIf(err)
	exitIf(fits(root, defects))
	switch {
	case flag.NArg() > 0:
		defects = matching(defects, flag.Args())
	case !*all && !*check:
		defects = sample(defects, *day, *size)
		fmt.Printf("mutate: the %d defects of %s\n", len(defects), *day)
	}
	if len(defects) == 0 {
		exitIf(fmt.Errorf("no defect has %s in its name", strings.Join(flag.Args(), " or ")))
	}
	if *check {
		fmt.Printf("mutate: %d defects, all fit\n", len(defects))
		return
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r, err := newRunner(root, *limit, *named)
	exitIf(err)
	if err := r.combine(ctx, defects); err != nil {
		r.close()
		exitIf(err)
	}
	results := r.all(ctx, defects, *workers)
	r.close()
	if report(os.Stdout, results) > 0 || ctx.Err() != nil {
		os.Exit(1)
	}
}

func exitIf(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// repository is the folder of the module that is being tested.
func repository() (string, error) {
	out, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// sample chooses n of the defects that the tests must notice. The same day always
// chooses the same.
func sample(defects []defect, day string, n int) []defect {
	var list []defect
	for _, d := range defects {
		if d.same == "" && d.survives == "" {
			list = append(list, d)
		}
	}
	var seed [32]byte
	copy(seed[:], day)
	rnd := rand.New(rand.NewChaCha8(seed))
	rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(n, len(list))]
}

// matching keeps those whose package and name contain one of the given words.
func matching(defects []defect, words []string) (list []defect) {
	for _, d := range defects {
		for _, w := range words {
			if strings.Contains(d.id(), w) {
				list = append(list, d)
				break
			}
		}
	}
	return list
}

// all runs the defects, a few at a time, and prints each result as it comes.
func (r *runner) all(ctx context.Context, defects []defect, workers int) []result {
	results := make([]result, len(defects))
	next := make(chan int)
	var wg sync.WaitGroup
	var printing sync.Mutex
	for range max(1, workers) {
		wg.Go(func() {
			for i := range next {
				results[i] = r.try(ctx, defects[i])
				printing.Lock()
				fmt.Println(results[i].line())
				printing.Unlock()
			}
		})
	}
	for i := range defects {
		if ctx.Err() != nil {
			results[i] = result{defect: defects[i], verdict: broken, detail: "interrupted"}
			continue
		}
		next <- i
	}
	close(next)
	wg.Wait()
	return results
}
