//! The clients that Python programs use.

use crate::harness::{Layer, MIB, TestRegistry, tool};

#[tokio::test]
async fn a_script_with_oras_pushes_and_pulls() {
    let registry = TestRegistry::start().await;
    let machine = registry.workstation();
    let Some(python) = tool::python("python") else { return };
    let data = Layer::random(2 * MIB).bytes();
    machine.write("data.bin", &data);
    let script = r"
import sys
from oras.client import OrasClient
host = sys.argv[1]
client = OrasClient(hostname=host, insecure=True, auth_backend='token')
client.push(target=f'{host}/team/art:1', files=['data.bin'], disable_path_validation=True)
client.pull(target=f'{host}/team/art:1', outdir='back')
print(client.get_tags(f'{host}/team/art'))
";
    let output = machine.run(&python, ["-c", script, &registry.host()]).await;
    assert!(output.ends_with("['1']\n"), "{output}");
    assert_eq!(machine.read("back/data.bin"), data);
}

#[tokio::test]
async fn dxf_keeps_files_under_names() {
    let registry = TestRegistry::start().await;
    let machine = registry.workstation();
    let Some(program) = tool::python("dxf") else { return };
    let dxf = async |line: &str| {
        let mut command = machine.command(&program);
        command.env("DXF_HOST", registry.host()).env("DXF_INSECURE", "1").args(line.split_whitespace());
        machine.finish(command).await
    };
    let blob = Layer::random(2 * MIB);
    machine.write("data.bin", blob.bytes());
    let pushed = dxf("push-blob team/files data.bin @data").await;
    assert_eq!(pushed.trim(), blob.digest().to_string());
    assert_eq!(dxf("list-aliases team/files").await, "data\n");
    assert_eq!(dxf("get-alias team/files data").await.trim(), blob.digest().to_string());
    assert_eq!(dxf("blob-size team/files @data").await.trim(), (2 * MIB).to_string());
    assert_eq!(dxf("list-repos").await, "team/files\n");
    dxf("del-alias team/files data").await;
    assert_eq!(dxf("list-aliases team/files").await, "");
}
