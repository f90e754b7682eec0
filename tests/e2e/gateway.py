"""The unmodified gateway `smg` from PyPI, started before some pipelines and waited for."""
import os
import subprocess
import sys

import openai
from conftest import PATIENCE, free_port, wait_until


class Gateway:
    """smg before some pipelines, and a client before smg."""

    def __init__(self, folder, endpoints, *args):
        port, metrics = free_port(), free_port()
        log_path = folder / "smg.log"
        with open(log_path, "wb") as log:
            smg = os.path.join(os.path.dirname(sys.executable), "smg")
            self.process = subprocess.Popen([smg, "launch", "--host", "127.0.0.1", "--port", str(port), "--prometheus-host",
                                             "127.0.0.1", "--prometheus-port", str(metrics), *args, "--worker-urls",
                                             *(f"grpc://{endpoint}" for endpoint in endpoints)], stdout=log, stderr=log)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

        def model_that_answers():
            """Listed is not ready: the gateway fetches the tokenizer behind it, and refuses until it has it."""
            assert self.process.poll() is None, log_path.read_text()
            try:
                for model in client.models.list().data:
                    client.completions.create(model=model.id, prompt="A", max_tokens=1)
                    client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "A"}], max_tokens=1)
                    return model.id
            except openai.APIError:
                return None
        client.model = wait_until(model_that_answers, "an answer through the gateway")
        self.client = client

    def stop(self):
        self.client.close()
        self.process.terminate()
        self.process.wait()
